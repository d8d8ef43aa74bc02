import torch


def forward(self, A, B):
    """A.T @ B.T = (B @ A).T: without transposed operands BLAS packs its panels from contiguous rows, and the transpose
    of the result is a view. A few percent; on a GPU all four layouts cost the same.
    """
    return torch.mm(B, A).T
