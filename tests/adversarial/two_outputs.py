"""Returns the output and something else.
task: 19
verdict: incorrect wrong_arity
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return (torch.relu(x), x)
