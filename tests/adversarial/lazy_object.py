"""Returns an object that pretends to be a Tensor.
task: 19
verdict: incorrect not_a_tensor
"""

import torch
import torch.nn as nn


class Lazy:
    def __init__(self, x):
        self.x = x

    @property
    def __class__(self):
        return torch.Tensor

    def __getattr__(self, name):
        return getattr(torch.relu(self.x), name)


class ModelNew(nn.Module):
    def forward(self, x):
        return Lazy(x)
