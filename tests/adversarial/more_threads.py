"""Takes two threads where the baseline has one.
task: 16
verdict: rejected background_thread
"""

import torch
import torch.nn as nn

torch.set_num_threads(2)


class ModelNew(nn.Module):
    def forward(self, A, B):
        return A.T @ B
