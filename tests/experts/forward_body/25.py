import torch.nn.functional as F


def forward(self, x):
    """x * sigmoid(x) is silu: one fused pass over x instead of two with a temporary between them (5
    streams become 2).
    """
    return F.silu(x)
