import torch


def forward(self, x):
    """No headroom: hardtanh is clamp, one pass, a read and a write for each element, at the roofline of memory."""
    return torch.clamp(x, -1.0, 1.0)
