"""Prints gigabytes.
task: 19
verdict: runtime_error
"""

import os

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        for _ in range(2000):
            os.write(1, b"x" * (1 << 20))
        return torch.relu(x)
