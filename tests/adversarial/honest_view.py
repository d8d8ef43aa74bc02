"""Returns a transposed view of its result.
task: 16
verdict: correct
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        return (B.T @ A).T
