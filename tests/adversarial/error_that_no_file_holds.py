"""Raises an error whose text is half of a surrogate pair.
task: 19
verdict: runtime_error
"""

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        raise RuntimeError("half \ud800 of a pair")
