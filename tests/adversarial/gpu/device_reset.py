"""Resets the device under its own feet.
task: 12
verdict: runtime_error | crash
"""

import ctypes

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, A, B):
        out = A.unsqueeze(1) * B
        torch.cuda.cudart().cudaDeviceReset() if hasattr(torch.cuda.cudart(), "cudaDeviceReset") else ctypes.CDLL(
            "libcudart.so.13"
        ).cudaDeviceReset()
        return out
