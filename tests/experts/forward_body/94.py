import torch


def forward(self, predictions, targets):
    """The square and the sum are one pass, a vector norm: the squares are never written."""
    return torch.linalg.vector_norm(predictions - targets).square_().div_(predictions.numel())
