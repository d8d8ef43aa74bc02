"""Returns its output on the CPU.
task: 12
verdict: incorrect wrong_device
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        return (A.unsqueeze(1) * B).cpu()
