import torch


def forward(self, A, B):
    """No headroom: K is so small that writing the result is a third of the time, and the GEMM does that once."""
    return torch.mm(A, B)
