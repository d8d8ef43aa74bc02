import torch


def forward(self, A, B):
    """No headroom: matmul already flattens batch and rows into one GEMM; saying so saves some microseconds."""
    return torch.mm(A.reshape(-1, A.shape[2]), B).view(A.shape[0], A.shape[1], -1)
