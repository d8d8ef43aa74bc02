import torch


def forward(self, A, B):
    """Only blocks on and above the diagonal are computed: half the multiplications. Where the blocks below the
    diagonals of A and B are all zero, which is looked up, block (i, j) needs the inner blocks i..j alone: 20 of 64
    block products.
    """
    n = A.shape[0]
    s = -(-n // 4)
    triangular = not any(matrix[i : i + s, :i].any() for i in range(s, n, s) for matrix in (A, B))
    C = A.new_zeros(n, n)
    for i in range(0, n, s):
        if triangular:
            for j in range(i, n, s):
                torch.mm(A[i : i + s, i : j + s], B[i : j + s, j : j + s], out=C[i : i + s, j : j + s])
        else:
            torch.mm(A[i : i + s], B[:, i:], out=C[i : i + s, i:])
        C[i : i + s, i : i + s].triu_()
    return C
