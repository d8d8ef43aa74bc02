import torch


def forward(self, A, B):
    """Rows of 741 floats begin at every possible alignment. The product goes into a buffer with rows of 752, a multiple
    of a cache line, of which a view is returned: the same multiplications with aligned stores. (GPU: pad for vector
    loads, too.)
    """
    rows = A.new_empty(A.shape[0], -(-B.shape[1] // 16) * 16)
    return torch.mm(A, B, out=rows[:, : B.shape[1]])
