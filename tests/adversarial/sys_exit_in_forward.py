"""Calls sys.exit when it is run.
task: 19
verdict: runtime_error
"""

import sys

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        sys.exit(0)
