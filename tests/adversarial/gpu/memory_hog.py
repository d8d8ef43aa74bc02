"""Takes more memory than is there.
task: 12
verdict: out_of_memory
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        self.held = torch.empty(1 << 40, dtype=torch.uint8, device="cuda")
        return A.unsqueeze(1) * B
