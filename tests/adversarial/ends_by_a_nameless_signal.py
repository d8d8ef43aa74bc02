"""Ends itself by a real-time signal, which has no name.
task: 19
verdict: crash
"""

import os

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        os.kill(os.getpid(), 40)
