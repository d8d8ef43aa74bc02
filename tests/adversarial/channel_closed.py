"""Closes the evaluator's channel and goes on running.
task: 19
verdict: crash
verdict without sandbox: crash
"""

import os
import time

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        os.closerange(3, 256)
        while True:
            time.sleep(1)
