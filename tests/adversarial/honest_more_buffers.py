"""Has a buffer of its own beside the parameters of the reference.
task: 40
verdict: correct
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self, normalized_shape):
        super().__init__()
        self.ln = nn.LayerNorm(normalized_shape)
        self.register_buffer("one", torch.ones(1))

    def forward(self, x):
        return self.ln(x) * self.one
