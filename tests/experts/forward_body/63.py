import torch


def forward(self, x):
    """Channels last: 16 input channels of a pixel are two cache lines' worth, and the small input is cheap to copy; the
    output stays as it comes. Some percent. Good on a GPU, too.
    """
    return self.conv2d(x.contiguous(memory_format=torch.channels_last))
