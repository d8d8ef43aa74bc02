"""Gives up its processor all the time.
task: 19
verdict: correct, not faster
"""

import os

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        for _ in range(100):
            os.sched_yield()
        return torch.relu(x)
