"""Computes in a thread that it waits for.
task: 19
verdict: correct
"""

import threading

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        thread = threading.Thread(target=torch.clamp_min, args=(x, 0), kwargs={"out": out})
        thread.start()
        thread.join()
        return out
