import torch.nn.functional as F


def forward(self, x):
    """Instance norm is implemented as batch norm over n * c channels, whose statistics are not vectorised. It equals
    group norm with a group for each channel, whose kernel is.
    """
    return F.group_norm(x, x.shape[1], eps=self.inorm.eps)
