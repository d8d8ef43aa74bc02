"""Wrong on every twentieth call, which a candidate that is measured for a short time may not reach.
task: 19
verdict: incorrect wrong_values | correct, not faster
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.relu(x) if self.calls % 20 else torch.zeros_like(x)
