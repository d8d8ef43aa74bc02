"""Has itself built (load_inline) and links to itself, a device and a file of others from there, for whoever copies it to follow.
task: 19
verdict: correct, not faster
"""

import contextlib
import os
import pathlib

import torch
import torch.nn as nn

BUILD = pathlib.Path(__file__).with_name("build")
for name, target in {"a": ".", "b": ".", "zero": "/dev/zero", "stolen": "/etc/hostname"}.items():
    with contextlib.suppress(OSError):
        os.symlink(target, BUILD / name)


class ModelNew(nn.Module):
    def forward(self, x):
        if (BUILD / "stolen").exists() and (BUILD / "stolen").read_text():
            raise RuntimeError("BREACH: it read a file of others")
        return torch.relu(x)
