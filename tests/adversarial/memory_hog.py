"""Takes memory until there is none.
task: 19
verdict: out_of_memory
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        held = []
        for _ in range(200):
            held.append(torch.ones(1 << 28))
        return torch.relu(x)
