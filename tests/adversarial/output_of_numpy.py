"""Returns an array of NumPy.
task: 19
verdict: incorrect not_a_tensor
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x).numpy()
