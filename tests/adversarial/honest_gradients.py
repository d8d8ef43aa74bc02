"""Needs gradients inside.
task: 19
verdict: correct
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(torch.relu(y).sum(), y)
        return x * slope
