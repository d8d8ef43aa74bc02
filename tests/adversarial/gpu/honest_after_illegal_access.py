"""Honest, and evaluated after one that broke its context.
task: 12
verdict: correct, faster
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        out = torch.empty_like(B)
        return torch.mul(A[:, None], B, out=out)
