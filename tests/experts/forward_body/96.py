import torch.nn.functional as F


def forward(self, predictions, targets):
    """At beta = delta = 1 the Huber loss is the smooth L1 loss, and its kernel is a little better. Two
    passes remain.
    """
    return F.huber_loss(predictions, targets)
