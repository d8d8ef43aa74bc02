"""Raises an exception that raises when it is turned into text.
task: 19
verdict: runtime_error | crash
"""

import torch.nn as nn


class Wild(Exception):
    def __str__(self):
        raise Wild


class ModelNew(nn.Module):
    def forward(self, x):
        raise Wild
