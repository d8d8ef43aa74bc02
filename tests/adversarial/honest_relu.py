"""Does what the reference does.
task: 19
verdict: correct
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
