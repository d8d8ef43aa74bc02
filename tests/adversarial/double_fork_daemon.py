"""Leaves a daemon behind that outlives the candidate.
task: 19
verdict: correct, not faster
"""

import os
import time

import torch
import torch.nn as nn

try:
    pid = os.fork()
except OSError:
    pass
else:
    if pid == 0:
        os.setsid()
        time.sleep(1)
        os._exit(0)
    raise SystemError("BREACH: forked")


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
