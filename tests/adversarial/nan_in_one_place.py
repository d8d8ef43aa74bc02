"""Returns NaN in one place.
task: 19
verdict: incorrect wrong_values
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.relu(x).index_put_((torch.tensor(5), torch.tensor(7)), torch.tensor(float("nan")))
