"""Forks until something stops it, by itself after 200 children.
task: 19
verdict: correct, not faster
"""

import os
import time

import torch
import torch.nn as nn

started = 0
try:
    while started < 200:
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
        started += 1
except OSError:
    pass
if started:
    raise SystemError(f"BREACH: {started} children")


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
