"""Returns infinity, whose distance from infinity is no number.
task: 19
verdict: incorrect wrong_values
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.full_like(x, float("inf"))
