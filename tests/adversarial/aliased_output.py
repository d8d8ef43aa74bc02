"""Returns its own input.
task: 19
verdict: incorrect wrong_values
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x
