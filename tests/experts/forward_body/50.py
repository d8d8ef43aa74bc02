import torch


def forward(self, x):
    """Channels last: the kernels of 11x11 windows on 3 channels read contiguous pixels, and the copy of the small input
    costs little. Good on a GPU, too.
    """
    return self.conv1(x.contiguous(memory_format=torch.channels_last))
