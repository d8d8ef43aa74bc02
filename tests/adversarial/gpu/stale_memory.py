"""Returns memory that it has not written.
task: 12
verdict: incorrect wrong_values
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        return torch.empty_like(B)
