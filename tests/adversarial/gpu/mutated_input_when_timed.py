"""Writes into an input, but not before it is timed beside others, whose inputs are the same memory.
task: 12
verdict: incorrect input_mutated
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, A, B):
        self.calls += 1
        C = A.unsqueeze(1) * B
        if self.calls > 12:
            B.zero_()
        return C
