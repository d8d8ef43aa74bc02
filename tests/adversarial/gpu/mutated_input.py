"""Writes into an input.
task: 12
verdict: incorrect input_mutated
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        return B.mul_(A.unsqueeze(1)).clone()
