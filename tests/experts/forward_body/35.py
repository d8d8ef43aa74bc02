import torch.nn.functional as F


def forward(self, x):
    """No headroom: group norm is fused: statistics in one pass and a multiply-add in another."""
    return F.group_norm(x, self.gn.num_groups, self.gn.weight, self.gn.bias, self.gn.eps)
