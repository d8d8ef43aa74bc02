"""KL divergence: a program reads a row of both arguments, and writes one sum.

Why faster: each argument is read once (2.1 GB), where the reference writes logarithms and pointwise losses and reads
them again (at least 6.4 GB). A zero target counts nothing, as in the reference: 0 log 0 = 0.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

BLOCK = 4096


@triton.jit
def kl_rows_kernel(p_ptr, t_ptr, sums_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + lanes
        inside = at < columns
        p = tl.load(p_ptr + row * columns + at, mask=inside, other=1.0)
        t = tl.load(t_ptr + row * columns + at, mask=inside, other=0.0)
        total += tl.where(t == 0.0, 0.0, t * tl.log(t)) - t * tl.log(p)
    tl.store(sums_ptr + row, tl.sum(total, axis=0))


class ModelNew(nn.Module):
    def forward(self, predictions, targets):
        predictions, targets = predictions.contiguous(), targets.contiguous()
        rows = predictions.shape[0]
        sums = torch.empty(rows, dtype=predictions.dtype, device=predictions.device)
        kl_rows_kernel[(rows,)](predictions, targets, sums, predictions.numel() // rows, BLOCK=BLOCK, num_warps=8)
        return sums.sum() / rows
