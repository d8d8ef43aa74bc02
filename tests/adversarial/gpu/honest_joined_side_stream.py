"""Honest: works on a side stream, and joins it.
task: 12
verdict: correct, faster
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            out = A.unsqueeze(1) * B
        torch.cuda.current_stream().wait_stream(side)
        return out
