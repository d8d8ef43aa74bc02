"""Stops its own process, as the evaluator does.
task: 19
verdict: runtime_error
verdict without sandbox: timeout
"""

import os
import signal

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGSTOP)
