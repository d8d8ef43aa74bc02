import torch.nn.functional as F


def forward(self, x):
    """No headroom: gelu with erf is one fused, vectorised pass."""
    return F.gelu(x)
