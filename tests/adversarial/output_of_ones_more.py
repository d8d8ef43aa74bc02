"""Returns one row more than it should.
task: 19
verdict: incorrect wrong_shape
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.cat([torch.relu(x), x[:1]])
