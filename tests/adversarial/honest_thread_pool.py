"""Computes in a pool of threads that it closes.
task: 19
verdict: correct
"""

from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        with ThreadPoolExecutor(2) as pool:
            return torch.cat(list(pool.map(torch.relu, x.chunk(2))))
