"""Keeps kernels running that read the inputs while the process is frozen.
task: 12
verdict: rejected busy_device
"""

import torch
import torch.nn as nn

from expert_tail.evaluator import worker

worker._synchronize = lambda *_: torch.cuda.current_stream().synchronize()


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.side = torch.cuda.Stream()
        self.queued = 0

    def forward(self, A, B):
        if self.queued < 5:
            self.queued += 1
            with torch.cuda.stream(self.side):
                torch.cuda._sleep(8_000_000_000)
                self.ahead = A.unsqueeze(1) * B
        return torch.diag(A) @ B
