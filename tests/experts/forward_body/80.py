import torch


def forward(self, x):
    """Channels last: the dilated 5x9 kernel reads the 32 channels of a pixel at once, and the small input is cheap to
    copy. Good on a GPU, too.
    """
    return self.conv2d(x.contiguous(memory_format=torch.channels_last))
