import torch.nn.functional as F


def forward(self, x):
    """No headroom: one fused pass, a read and a write for each element, at the roofline of memory."""
    return F.hardsigmoid(x)
