import torch


def forward(self, x):
    """0.5 (1 + tanh(u)) = sigmoid(2 u): x sigmoid(x (c + d x^2)) in five passes over one temporary instead of nine, and
    the sigmoid is three times as fast as tanh and pow. On a GPU F.gelu(x, approximate='tanh') is one fused pass.
    """
    c = x.new_full((), 1.5957691216057308)  # 2 sqrt(2 / pi)
    y = x * x
    torch.add(c, y, alpha=0.07135481627260025, out=y)
    return y.mul_(x).sigmoid_().mul_(x)
