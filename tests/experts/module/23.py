"""Softmax of long rows in two passes: maximum and sum together, then the quotients.

Why faster: rows of 1.6 MB fit no on-chip memory, so that every pass costs a read. Keeping a running maximum and a sum
relative to it, for each lane, makes two reads of three; the second pass goes backwards, since the end of a row is
what the L2 cache still holds.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

BLOCK = 4096


@triton.jit
def softmax_kernel(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * columns
    lanes = tl.arange(0, BLOCK)
    blocks = tl.cdiv(columns, BLOCK)
    high = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(0, blocks):
        at = i * BLOCK + lanes
        x = tl.load(x_ptr + offset + at, mask=at < columns, other=float("-inf"))
        new = tl.maximum(high, x)
        base = tl.where(new == float("-inf"), 0.0, new)  # a lane without values yet: no inf - inf
        total = total * tl.exp(high - base) + tl.exp(x - base)
        high = new
    top = tl.max(high, axis=0)
    scale = 1.0 / tl.sum(total * tl.exp(high - top), axis=0)
    for i in range(0, blocks):
        at = (blocks - 1 - i) * BLOCK + lanes
        inside = at < columns
        x = tl.load(x_ptr + offset + at, mask=inside, other=float("-inf"))
        tl.store(y_ptr + offset + at, tl.exp(x - top) * scale, mask=inside)


class ModelNew(nn.Module):
    def forward(self, x):
        if x.dim() != 2:
            return torch.softmax(x, dim=1)
        x = x.contiguous()
        y = torch.empty_like(x)
        if x.numel():
            softmax_kernel[(x.shape[0],)](x, y, x.shape[1], BLOCK=BLOCK, num_warps=8)
        return y
