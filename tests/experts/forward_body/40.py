import torch.nn.functional as F


def forward(self, x):
    """No headroom: layer norm is fused: statistics in one pass and a multiply-add in another."""
    return F.layer_norm(x, self.ln.normalized_shape, self.ln.weight, self.ln.bias, self.ln.eps)
