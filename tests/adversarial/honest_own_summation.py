"""Sums in blocks, in another order than the reference.
task: 47
verdict: correct
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x):
        return sum(block.sum(dim=1, keepdim=True) for block in x.flip(1).split(16, dim=1))
