import torch


def forward(self, x):
    """Channels last: the library's transposed convolution is at half of the peak on planes and at three quarters on
    pixels, which is worth the copy of x; the output keeps the layout. Good on a GPU, too.
    """
    return self.conv_transpose2d(x.contiguous(memory_format=torch.channels_last))
