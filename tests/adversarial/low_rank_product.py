"""Multiplies the first half of the inner dimension, and doubles.
task: 16
verdict: incorrect wrong_values
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        return 2 * (A[: A.shape[0] // 2].T @ B[: B.shape[0] // 2])
