import torch.nn.functional as F


def forward(self, Q, K, V):
    """No headroom: both products are the time, in the fused kernel as well as written out."""
    return F.scaled_dot_product_attention(Q, K, V)
