"""Changes the current stream for good and leaves its work there.
task: 12
verdict: correct, not faster | incorrect wrong_values
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        torch.cuda.set_stream(torch.cuda.Stream())
        return torch.diag(A) @ B
