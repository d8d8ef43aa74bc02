import torch


def forward(self, A, B):
    """No headroom: a product of two symmetric matrices is not symmetric, and reading half of A or B does not save a
    multiplication. Nor may symmetry be relied on where the inputs are changed.
    """
    return torch.mm(A, B)
