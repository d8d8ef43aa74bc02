import torch


def forward(self, x):
    """vector_norm is the reduction alone; torch.norm takes a slower way to it. Two passes over x are
    needed, and done.
    """
    return x / torch.linalg.vector_norm(x)
