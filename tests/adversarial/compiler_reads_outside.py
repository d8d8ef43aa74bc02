"""Has itself built (load_inline) and, while it may start programs, uses them on files and the network.
task: 19
verdict: correct, not faster
"""

import os
import pathlib
import subprocess

import torch
import torch.nn as nn

HOME = pathlib.Path(__file__).parent
for command in (
    "touch /tmp/expert-tail-victim-*/file2 /tmp/expert-tail-breach",
    "rm -rf /tmp/expert-tail-victim-*/file",
    "cat /etc/shadow > stolen || cat /etc/hostname > stolen",
    "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 22), 1)'",
    "kill -9 -1",
):
    try:
        done = subprocess.run(command, shell=True, cwd=HOME, timeout=20, capture_output=True)
    except OSError:
        continue
    if done.returncode == 0 and "touch" not in command and "rm -rf" not in command:
        raise SystemError(f"BREACH: {command}")
if os.environ.get("EXPERT_TAIL_TEST_TOKEN"):
    raise SystemError("BREACH: environment")


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
