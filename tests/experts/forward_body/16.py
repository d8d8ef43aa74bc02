import torch


def forward(self, A, B):
    """No headroom: BLAS reads A transposed for free, and the GEMM is near the machine's peak. Copying A first is
    slower.
    """
    return torch.mm(A.T, B)
