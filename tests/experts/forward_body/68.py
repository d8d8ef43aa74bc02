import torch
import torch.nn.functional as F


def forward(self, x):
    """With stride 1 a transposed convolution is a convolution with the flipped kernel and padding k - 1; channels last
    its kernel is some percent better than that of the layer. On a GPU the layer itself is as good.
    """
    conv = self.conv_transpose3d
    weight = conv.weight.flip(2, 3, 4).transpose(0, 1)
    padding = [size - 1 for size in conv.kernel_size]
    return F.conv3d(x.contiguous(memory_format=torch.channels_last_3d), weight, conv.bias, padding=padding)
