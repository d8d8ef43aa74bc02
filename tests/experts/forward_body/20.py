import torch.nn.functional as F


def forward(self, x):
    """No headroom: one fused pass, at the roofline of memory; max(x, slope * x) makes it two."""
    return F.leaky_relu(x, self.negative_slope)
