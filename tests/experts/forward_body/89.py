import torch


def forward(self, x):
    """No headroom found: the kernel is bound by the latency of one addition after the other. Products with triangular
    ones, sums by blocks, and pairs as complex numbers break the chain, but move too much memory (0.4x to 0.66x). On a
    GPU a scan is at the roofline of memory.
    """
    return torch.cumsum(x, self.dim)
