"""Works in place on a tensor of its own.
task: 19
verdict: correct
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x.clone().relu_()
