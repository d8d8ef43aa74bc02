"""Scales rows in place of a product with a diagonal matrix.
task: 12
verdict: correct, faster
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        return A[:, None] * B
