"""Does the work three times.
task: 19
verdict: correct, slower
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(torch.relu(torch.relu(x) * 1.0))
