"""Starts threads until something stops it, by itself after 5000.
task: 19
verdict: rejected background_thread | runtime_error | out_of_memory | crash
"""

import threading
import time

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        for _ in range(5000):
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        return torch.relu(x)
