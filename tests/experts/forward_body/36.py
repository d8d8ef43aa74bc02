import torch


def forward(self, x):
    """Image by image, so that its squares and its result share a buffer that fits the cache; the mean over channels is
    a product with a constant row; one multiplication by 1 / rms instead of a division. On a GPU take all images at
    once, and the norm over channels by vector_norm, which writes no squares.
    """
    n, c = x.shape[:2]
    result = torch.empty_like(x)
    mean = x.new_full((1, c), 1 / c)
    for image, y in zip(x.reshape(n, c, -1), result.view(n, c, -1), strict=True):
        torch.mul(image, image, out=y)
        torch.mul(image, torch.mm(mean, y).add_(self.eps).rsqrt_(), out=y)
    return result
