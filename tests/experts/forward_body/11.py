import torch


def forward(self, A, B):
    """einsum permutes and reshapes before it calls the product; the same sum is one GEMM of the flattened rows."""
    return torch.mm(A.reshape(-1, A.shape[3]), B).view(*A.shape[:3], -1)
