"""Replaces NaN and infinity by numbers. No input holds either, so it is right on all: it gains nothing by it.
task: 19
verdict: correct, not faster
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(torch.nan_to_num(x))
