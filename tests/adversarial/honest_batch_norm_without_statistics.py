"""Batch norm with the affine parameters alone, which are under other names and have more axes.
task: 33
verdict: correct
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(num_features, 1, 1))
        self.shift = nn.Parameter(torch.zeros(num_features, 1, 1))
        self.register_buffer("one", torch.ones(num_features))

    def forward(self, x):
        var, mean = torch.var_mean(x, dim=(0, 2, 3), unbiased=False, keepdim=True)
        scale = self.gain * torch.rsqrt(var + self.eps)
        return torch.addcmul(self.shift - mean * scale, x, scale)
