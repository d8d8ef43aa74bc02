"""Signals its parent, its parent's parent, and everybody (with signal 0, which only asks whether it may).
task: 19
verdict: correct, not faster
"""

import os

import torch
import torch.nn as nn

for pid in (os.getppid(), 1, -1, 0, *(int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid())):
    try:
        os.kill(pid, 0)
    except OSError:
        continue
    raise SystemError(f"BREACH: {pid}")


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
