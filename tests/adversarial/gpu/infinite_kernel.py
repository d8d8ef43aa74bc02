"""Starts a kernel that does not end.
task: 12
verdict: timeout
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        torch.cuda._sleep(1 << 60)
        return A.unsqueeze(1) * B
