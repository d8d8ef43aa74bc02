import torch


def forward(self, x):
    """The same three operations, the last two in place on the first one's result: one buffer that stays in the cache
    instead of three. On a GPU only fusing them saves memory traffic.
    """
    y = x.abs().add_(1)
    return torch.div(x, y, out=y)
