import torch


def forward(self, anchor, positive, negative):
    """The distances by vector_norm, with eps added in place, and the margin on vectors of one value a row: two passes
    less over each of the differences than pairwise_distance makes.
    """
    loss = self.loss_fn
    near = torch.linalg.vector_norm((anchor - positive).add_(loss.eps), dim=1)
    far = torch.linalg.vector_norm((anchor - negative).add_(loss.eps), dim=1)
    return near.sub_(far).add_(loss.margin).clamp_min_(0).mean()
