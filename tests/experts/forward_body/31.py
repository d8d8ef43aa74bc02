import torch.nn.functional as F


def forward(self, x):
    """No headroom: elu is one fused pass that skips the exponential where all lanes are positive."""
    return F.elu(x, self.alpha)
