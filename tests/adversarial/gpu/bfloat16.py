"""Computes in bfloat16.
task: 12
verdict: incorrect wrong_values
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        return (A.bfloat16().unsqueeze(1) * B.bfloat16()).float()
