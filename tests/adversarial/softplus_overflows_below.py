"""Softplus that is infinite below -88.
task: 29
verdict: incorrect wrong_values
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x + torch.log(1 + torch.exp(-x))
