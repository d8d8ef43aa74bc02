"""Returns a view of every other value of a buffer of its own.
task: 19
verdict: correct
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        apart = torch.empty(*x.shape, 5)
        apart[..., 0] = torch.relu(x)
        return apart[..., 0]
