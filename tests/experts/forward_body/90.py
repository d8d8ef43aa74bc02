import torch


def forward(self, x):
    """No headroom found: the kernel is bound by the latency of one multiplication after the other; sums of logarithms
    are slow and lose signs.
    """
    return torch.cumprod(x, self.dim)
