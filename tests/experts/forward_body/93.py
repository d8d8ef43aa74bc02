import torch


def forward(self, x, mask):
    """A product with a bool mask converts it element by element. Its bytes, read as uint8, convert in a vectorised
    pass; then the product and the scan work in place.
    """
    return mask.view(torch.uint8).to(x.dtype).mul_(x).cumsum_(self.dim)
