"""Takes more of the device's memory than it may.
task: 12
verdict: out_of_memory
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        self.held = [torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(70)]
        return A.unsqueeze(1) * B
