import torch


def forward(self, x):
    """Channels last: the 32 input channels of a pixel are contiguous, and the copies cost less than the faster kernel
    saves. Good on a GPU, too.
    """
    return self.conv_transpose3d(x.contiguous(memory_format=torch.channels_last_3d))
