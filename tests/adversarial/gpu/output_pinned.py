"""Returns pinned host memory.
task: 12
verdict: incorrect wrong_device
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        out = torch.empty(B.shape, pin_memory=True)
        out.copy_(A.unsqueeze(1) * B)
        return out
