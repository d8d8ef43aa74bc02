"""Honest: scales rows instead of multiplying by a diagonal matrix.
task: 12
verdict: correct, faster
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        return A.unsqueeze(1) * B
