"""Returns a tensor without values.
task: 19
verdict: incorrect wrong_device
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.empty_like(x, device="meta")
