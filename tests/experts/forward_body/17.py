import torch


def forward(self, A, B):
    """No headroom: BLAS reads B transposed for free, and the GEMM is near the machine's peak."""
    return torch.mm(A, B.T)
