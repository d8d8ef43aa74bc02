"""Layer norm of few, very long rows: each is split among many programs, for the statistics and for the result.

Why faster: the library gives a row to one block, and 16 rows of 4 million values keep 16 of 132 multiprocessors busy.
Here 2048 programs take mean and centred squares of pieces, and all of them combine the pieces by Chan's formula,
which loses no precision to a large mean, before they normalise one.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

BLOCK = 4096
BLOCKS_A_PIECE = 8


@triton.jit
def pieces_kernel(x_ptr, means_ptr, squares_ptr, n, pieces, BLOCK: tl.constexpr, PIECE: tl.constexpr):
    """Mean of a piece of a row, and the sum of squared differences from it."""
    row = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    lanes = tl.arange(0, BLOCK)
    count = tl.sum(tl.zeros([BLOCK], tl.float32), axis=0)
    mean = count
    squares = count
    for i in range(0, PIECE):
        at = (piece * PIECE + i) * BLOCK + lanes
        inside = at < n
        x = tl.load(x_ptr + row * n + at, mask=inside, other=0.0)
        added = tl.sum(inside.to(tl.float32), axis=0)
        own_mean = tl.sum(x, axis=0) / tl.maximum(added, 1.0)
        centred = tl.where(inside, x - own_mean, 0.0)
        delta = own_mean - mean
        total = tl.maximum(count + added, 1.0)
        squares += tl.sum(centred * centred, axis=0) + delta * delta * count * added / total
        mean += delta * added / total
        count += added
    tl.store(means_ptr + row * pieces + piece, mean)
    tl.store(squares_ptr + row * pieces + piece, squares)


@triton.jit
def normalise_kernel(
    x_ptr, y_ptr, weight_ptr, bias_ptr, means_ptr, squares_ptr, n, pieces, eps,
    BLOCK: tl.constexpr, PIECE: tl.constexpr, ALL_PIECES: tl.constexpr,
):  # fmt: skip
    """The statistics of a row from those of its pieces; then one piece of it."""
    row = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    every = tl.arange(0, ALL_PIECES)
    means = tl.load(means_ptr + row * pieces + every, mask=every < pieces, other=0.0)
    squares = tl.load(squares_ptr + row * pieces + every, mask=every < pieces, other=0.0)
    counts = tl.maximum(tl.minimum(n - every * (PIECE * BLOCK), PIECE * BLOCK), 0).to(tl.float32)
    mean = tl.sum(means * (counts / n), axis=0)
    delta = means - mean
    variance = tl.sum(squares + counts * delta * delta, axis=0) / n
    scale = 1.0 / tl.sqrt(variance + eps)
    lanes = tl.arange(0, BLOCK)
    for i in range(0, PIECE):
        at = (piece * PIECE + i) * BLOCK + lanes
        inside = at < n
        x = tl.load(x_ptr + row * n + at, mask=inside, other=0.0)
        weight = tl.load(weight_ptr + at, mask=inside, other=0.0)
        bias = tl.load(bias_ptr + at, mask=inside, other=0.0)
        tl.store(y_ptr + row * n + at, (x - mean) * scale * weight + bias, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, normalized_shape):
        super().__init__()
        self.ln = nn.LayerNorm(normalized_shape)

    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        n = self.ln.weight.numel()
        rows = x.numel() // n
        pieces = triton.cdiv(n, BLOCK * BLOCKS_A_PIECE)
        means = torch.empty(2, rows, pieces, dtype=torch.float32, device=x.device)
        grid, sizes = (rows, pieces), {"BLOCK": BLOCK, "PIECE": BLOCKS_A_PIECE, "num_warps": 8}
        pieces_kernel[grid](x, means[0], means[1], n, pieces, **sizes)
        normalise_kernel[grid](
            x, y, self.ln.weight, self.ln.bias, means[0], means[1], n, pieces, self.ln.eps,
            ALL_PIECES=triton.next_power_of_2(pieces), **sizes,
        )  # fmt: skip
        return y
