import torch.nn.functional as F


def forward(self, x):
    """A sum over 8 taps is 3 sums of shifted arrays, contiguous and vectorised, as the layer's loop is not. No running
    sum, so that large values elsewhere cost no precision. On a GPU the layer's one pass is better.
    """
    y = F.pad(x, (4, 4))
    y = y[..., :-1] + y[..., 1:]
    y = y[..., :-2] + y[..., 2:]
    return (y[..., :-4] + y[..., 4:]).mul_(0.125)
