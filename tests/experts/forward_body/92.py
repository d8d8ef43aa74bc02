import torch


def forward(self, x):
    """The scan writes to its final place, one further on, in a result whose first column is zeroed: no cat, so that the
    sums are written once and never copied.
    """
    y = torch.empty_like(x)
    size = x.size(self.dim)
    y.narrow(self.dim, 0, 1).zero_()
    torch.cumsum(x.narrow(self.dim, 0, size - 1), self.dim, out=y.narrow(self.dim, 1, size - 1))
    return y
