"""Honest: the reference itself.
task: 12
verdict: correct
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        return torch.diag(A) @ B
