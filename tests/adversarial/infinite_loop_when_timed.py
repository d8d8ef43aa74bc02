"""Loops for ever in a timed call.
task: 19
verdict: timeout
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        while self.calls > 6:
            pass
        return torch.relu(x)
