import torch


def forward(self, x):
    """At stride 5 with dilation 2 no two of the 9 taps meet in an output: one product of pixels with all taps is all
    the arithmetic. It is scattered, with contiguous channels, into a zeroed channels-last result; 16 of 25 outputs stay
    zero.
    """
    conv = self.conv_transpose2d
    c, k = conv.weight.shape[:2]
    n, _, h, w = x.shape
    (s, _), (p, _), (d, _) = conv.stride, conv.padding, conv.dilation
    parts = torch.mm(x.movedim(1, 3).reshape(-1, c), conv.weight.permute(0, 2, 3, 1).reshape(c, -1))
    parts = parts.view(n, h, w, 3, 3, k)
    y = x.new_zeros(n, s * h, s * w, k)
    for i in range(3):
        for j in range(3):
            y[:, d * i :: s, d * j :: s] = parts[:, :, :, i, j]
    y = y[:, p : s * (h - 1) + 2 * d + 1 - p, p : s * (w - 1) + 2 * d + 1 - p]
    return y.movedim(3, 1) if conv.bias is None else y.add_(conv.bias).movedim(3, 1)
