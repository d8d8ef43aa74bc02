import torch
import torch.nn.functional as F


def forward(self, x):
    """As a convolution with the flipped kernel, by Winograd's F(6, 3) along the height: 6 rows of output from 8
    products instead of 18. The 5 columns of the kernel are stacked into the inner dimension, so that the products are 8
    large ones. In float32 the transformation costs a digit of accuracy, well within the tolerance. On a GPU the layer
    itself is better.
    """
    conv = self.conv_transpose2d
    weight = conv.weight.flip(2, 3).transpose(0, 1)
    n, c, height, width = x.shape
    k, _, taps, columns = weight.shape
    ho, wo, m = height + taps - 1, width + columns - 1, 9 - taps
    tiles = -(-ho // m)
    points = x.new_tensor([0, 1, -1, 2, -2, 0.5, -0.5])  # and infinity
    to_input = x.new_tensor(
        [
            [1, 0, -5.25, 0, 5.25, 0, -1, 0],
            [0, 1, 1, -4.25, -4.25, 1, 1, 0],
            [0, -1, 1, 4.25, -4.25, -1, 1, 0],
            [0, 0.5, 0.25, -2.5, -1.25, 2, 1, 0],
            [0, -0.5, 0.25, 2.5, -1.25, -2, 1, 0],
            [0, 2, 4, -2.5, -5, 0.5, 1, 0],
            [0, -2, 4, 2.5, -5, -0.5, 1, 0],
            [0, -1, 0, 5.25, 0, -5.25, 0, 1],
        ]
    )
    scales = x.new_tensor([[1], [-2 / 9], [-2 / 9], [1 / 90], [1 / 90], [32 / 45], [32 / 45]])
    to_kernel = F.pad(torch.vander(points, taps, increasing=True) * scales, (0, 0, 0, 1))
    to_kernel[7, taps - 1] = 1
    to_output = F.pad(torch.vander(points, m, increasing=True).T, (0, 1))
    to_output[m - 1, 7] = 1
    u = torch.mm(to_kernel, weight.permute(2, 0, 3, 1).reshape(taps, -1)).view(8, k, columns * c)
    tile = F.pad(x, (columns - 1, columns - 1, taps - 1, m * tiles - height)).unfold(2, 8, m)
    v = torch.mm(to_input, tile.permute(4, 1, 0, 2, 3).reshape(8, -1)).view(8, c, n * tiles, -1)
    shifted = x.new_empty(columns, c, n * tiles, wo)
    products = x.new_empty(8, k, n * tiles * wo)
    for p in range(8):
        torch.stack([v[p, ..., j : j + wo] for j in range(columns)], out=shifted)
        torch.mm(u[p], shifted.view(columns * c, -1), out=products[p])
    y = torch.mm(to_output, products.view(8, -1)).view(m, k, n, tiles, wo)
    y = y.permute(2, 1, 3, 0, 4).reshape(n, k, m * tiles, wo)[:, :, :ho]
    return y if conv.bias is None else y + conv.bias.view(-1, 1, 1)
