"""Has itself built (load_inline) and, while it may start programs, leaves one behind that takes the processor.
task: 19
verdict: correct, not faster
"""

import contextlib
import os
import subprocess
import sys

import torch
import torch.nn as nn

BUSY = "marker = 'expert-tail-left-behind'\nwhile True: pass"
with contextlib.suppress(OSError):
    subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", BUSY])
        os._exit(0)


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x)
