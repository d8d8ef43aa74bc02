"""Exclusive cumulative sums along rows: a program scans a row, block by block, over values read one place to the
left.

Why faster: one read and one write of x (8.6 GB), where the reference writes its sums and copies them behind the zeros
(17 GB).
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

BLOCK = 4096


@triton.jit
def exclusive_cumsum_kernel(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * columns
    lanes = tl.arange(0, BLOCK)
    carry = tl.sum(tl.zeros([BLOCK], tl.float32), axis=0)
    for start in range(0, columns, BLOCK):
        at = start + lanes
        x = tl.load(x_ptr + offset + at - 1, mask=(at > 0) & (at < columns), other=0.0)
        tl.store(y_ptr + offset + at, carry + tl.cumsum(x, axis=0), mask=at < columns)
        carry += tl.sum(x, axis=0)


class ModelNew(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        if self.dim % x.dim() != x.dim() - 1:
            sums = torch.cumsum(x.narrow(self.dim, 0, x.size(self.dim) - 1), dim=self.dim)
            return torch.cat((torch.zeros_like(x.narrow(self.dim, 0, 1)), sums), dim=self.dim)
        x = x.contiguous()
        y = torch.empty_like(x)
        if x.numel():
            columns = x.shape[-1]
            exclusive_cumsum_kernel[(x.numel() // columns,)](x, y, columns, BLOCK=BLOCK, num_warps=8)
        return y
