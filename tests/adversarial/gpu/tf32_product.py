"""Multiplies matrices with TF32.
task: 14
verdict: incorrect wrong_values
"""

import torch
import torch.nn as nn

torch.backends.cuda.matmul.allow_tf32 = True


class ModelNew(nn.Module):
    def forward(self, A, B):
        return torch.triu(torch.matmul(A, B))
