import torch


def forward(self, x):
    """No headroom found: tanh here is MKL's, at 3 ns an element, and a rational function (degree 13 over 6) in 13
    passes over blocks in the cache takes as long. 2 sigmoid(2 x) - 1 is twice as fast, but loses all digits of small x:
    outside the tolerance where all of x is small. On a GPU tanh is at the roofline of memory.
    """
    return torch.tanh(x)
