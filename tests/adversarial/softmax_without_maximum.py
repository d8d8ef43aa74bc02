"""Softmax that does not take off the largest value first, and overflows where one is large.
task: 23
verdict: incorrect wrong_values
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        e = torch.exp(x)
        return e / e.sum(dim=1, keepdim=True)
