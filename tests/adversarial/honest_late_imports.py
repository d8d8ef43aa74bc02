"""Uses parts of torch that are imported late, and ask for a folder for temporary files.
task: 19
verdict: correct
"""

import torch
import torch.nn as nn
from torch.utils.checkpoint import checkpoint

torch.use_deterministic_algorithms(True)


@torch.library.custom_op("expert_tail_test::relu", mutates_args=())
def relu(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


class ModelNew(nn.Module):
    @torch.compiler.disable
    def forward(self, x):
        return checkpoint(relu, x, use_reentrant=False)
