import torch
import torch.nn.functional as F


def forward(self, x):
    """Stride 2, padding 1 and dilation 2 leave only odd outputs other than zero, and these are a "same" convolution of
    x. Time by time, 3 products write it right into every second row of the zeroed result, of which a transposed view is
    returned.
    """
    conv = self.conv1d_transpose
    n, _, length = x.shape
    y = x.new_zeros(n, 2 * length + 1, conv.out_channels)
    w0, w1, w2 = conv.weight.unbind(2)
    for signal, result in zip(F.pad(x, (1, 1)).mT.contiguous(), y, strict=True):
        odd = result[1::2]
        torch.mm(signal[2:], w0, out=odd)
        odd.addmm_(signal[1:-1], w1).addmm_(signal[:-2], w2)
    return y.mT if conv.bias is None else y.add_(conv.bias).mT
