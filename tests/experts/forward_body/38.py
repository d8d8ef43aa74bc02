import torch


def forward(self, x):
    """The division by the mean writes into the buffer of the absolute values, as a multiplication by its reciprocal.
    (On a GPU vector_norm with ord 1 needs no buffer; on the CPU it is not vectorised.)
    """
    y = x.abs()
    return torch.mul(x, y.mean(1, keepdim=True).reciprocal_(), out=y)
