import torch


def forward(self, A, B):
    """No headroom: with K = 32, writing the square result sets the time, and the GEMM writes it once."""
    return torch.mm(A, B)
