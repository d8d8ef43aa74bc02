"""Honest, but not supported: torch.compile starts a compiler each time, which no worker that is timed may.
task: 12
verdict: runtime_error | correct, faster
"""

import torch
import torch.nn as nn


@torch.compile
def compiled(A, B):
    return A.unsqueeze(1) * B


class ModelNew(nn.Module):
    def forward(self, A, B):
        return compiled(A, B)
