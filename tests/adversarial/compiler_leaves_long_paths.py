"""Has itself built (load_inline) and leaves a file whose path is longer than anybody can name.
task: 19
verdict: compile_error
"""

import contextlib
import os
import pathlib

import torch
import torch.nn as nn

here = os.getcwd()
with contextlib.suppress(OSError):
    os.chdir(pathlib.Path(__file__).with_name("build"))
    for _ in range(16):
        os.mkdir("d" * 255)
        os.chdir("d" * 255)
    with open("f" * 255, "w") as file:
        file.write("x")
os.chdir(here)


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
