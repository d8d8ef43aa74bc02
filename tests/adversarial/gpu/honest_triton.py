"""Honest: a Triton kernel, compiled ahead.
task: 12
verdict: correct, faster
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def scale_rows(a, b, out, n, m, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n * m
    row = tl.load(a + at // m, inside)
    tl.store(out + at, row * tl.load(b + at, inside), inside)


class ModelNew(nn.Module):
    def forward(self, A, B):
        out = torch.empty_like(B)
        scale_rows[(triton.cdiv(B.numel(), 1024),)](A, B, out, *B.shape, BLOCK=1024)
        return out
