"""Honest: does the work three times.
task: 12
verdict: correct, slower
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        for _ in range(3):
            out = torch.diag(A) @ B
        return out
