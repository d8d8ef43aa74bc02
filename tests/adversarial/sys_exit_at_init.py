"""Calls sys.exit when it is constructed.
task: 19
verdict: runtime_error
"""

import sys

import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        sys.exit(0)
