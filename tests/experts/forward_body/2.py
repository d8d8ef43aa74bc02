import torch


def forward(self, A, B):
    """No headroom: one GEMM of well-shaped matrices, already near the machine's peak."""
    return torch.mm(A, B)
