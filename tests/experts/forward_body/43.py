import torch
import torch.nn.functional as F


def forward(self, x):
    """A maximum over a window is separable: 2 maxima of strided arrays for each dimension instead of 27 taps, and the
    first dimension alone halves the rest. On a GPU the layer's one pass is better.
    """
    y = F.pad(x, (1, 1, 1, 1, 1, 1), value=-torch.inf)
    for dim in (2, 3, 4):
        taps = [y.narrow(dim, 3 * i, y.shape[dim] - 6) for i in range(3)]
        a, b, c = (tap.unfold(dim, 1, 2).squeeze(-1) for tap in taps)
        y = torch.maximum(torch.maximum(a, b), c)
    return y
