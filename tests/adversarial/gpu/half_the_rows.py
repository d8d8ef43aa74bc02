"""Leaves out the last row.
task: 12
verdict: incorrect wrong_values
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        out = A.unsqueeze(1) * B
        out[-1] = 0
        return out
