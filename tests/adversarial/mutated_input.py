"""Works in place, which changes the input of the caller.
task: 19
verdict: incorrect input_mutated
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x.relu_()
