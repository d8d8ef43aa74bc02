"""Fills its folder with files, folders, links and pipes, which somebody has to remove.
task: 19
verdict: correct, not faster
verdict without sandbox: compile_error
"""

import os

import torch
import torch.nn as nn


def links():
    os.symlink("/etc", "link")


def pipe():
    os.unlink("output.txt")
    os.mkfifo("output.txt")


def folders():
    for _ in range(1500):
        os.mkdir("deeper")
        os.chdir("deeper")


def files():
    for number in range(20):
        with open(f"file{number}", "wb") as file:
            file.write(b"x" * 4096)


for attack in (links, pipe, folders, files):
    try:
        attack()
    except OSError:
        continue
    raise SystemError(f"BREACH: {attack.__name__}")


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
