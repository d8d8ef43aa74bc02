"""Honest: torch.compile, compiled ahead.
task: 12
verdict: correct, faster
"""

import torch
import torch.nn as nn


@torch.compile
def compiled(A, B):
    return A.unsqueeze(1) * B


class ModelNew(nn.Module):
    def forward(self, A, B):
        return compiled(A, B)
