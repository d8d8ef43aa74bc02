"""Starts a program when it is imported.
task: 19
verdict: compile_error
"""

import subprocess

import torch
import torch.nn as nn

subprocess.run(["/bin/true"], check=True)


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
