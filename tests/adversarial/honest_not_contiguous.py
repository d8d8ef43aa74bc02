"""Returns every other column of a wider result.
task: 19
verdict: correct
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x).repeat_interleave(2, dim=1)[:, ::2]
