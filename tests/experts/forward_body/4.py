import torch


def forward(self, A, B):
    """No headroom: each element of A is read once, for one multiply-add, so that memory sets the time. One pass is all
    there is; splitting K needs a second pass over the partial sums. mv and linear are equal.
    """
    return torch.matmul(A, B)
