"""Cumulative sums of masked values: a block scans a row, tile by tile, and applies the mask as it reads.

Why faster: x and the mask are read once and the sums written once (9.7 GB); the reference writes the product and
reads it again for its scan (18 GB).
"""

import torch
import torch.nn as nn
from torch.utils.cpp_extension import load_inline

CPP = "torch::Tensor masked_cumsum(torch::Tensor x, torch::Tensor mask);"
CUDA = r"""
#include <torch/types.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kTile = 4 * kThreads;  // values of a row that a block scans at a time

template <bool kPacked>
__device__ __forceinline__ void load(const float* row, const uint8_t* mask, int64_t at, int64_t length,
                                     float* v) {
  if (kPacked) {  // the length is a multiple of four: all four values are there
    const float4 pack = *reinterpret_cast<const float4*>(row + at);
    const uchar4 keep = *reinterpret_cast<const uchar4*>(mask + at);
    v[0] = pack.x * keep.x, v[1] = pack.y * keep.y, v[2] = pack.z * keep.z, v[3] = pack.w * keep.w;
  } else {
    for (int i = 0; i < 4; ++i) v[i] = at + i < length ? row[at + i] * mask[at + i] : 0.0f;
  }
}

template <bool kPacked>
__device__ __forceinline__ void store(float* row, int64_t at, int64_t length, const float* v) {
  if (kPacked) {
    *reinterpret_cast<float4*>(row + at) = make_float4(v[0], v[1], v[2], v[3]);
  } else {
    for (int i = 0; i < 4; ++i) {
      if (at + i < length) row[at + i] = v[i];
    }
  }
}

// A block scans a row, tile by tile; a thread has four values in a row.
template <bool kPacked>
__global__ void __launch_bounds__(kThreads) masked_cumsum_kernel(const float* __restrict__ x,
                                                                 const uint8_t* __restrict__ mask,
                                                                 float* __restrict__ y, int64_t rows,
                                                                 int64_t length) {
  __shared__ float totals[2][kWarps];  // of warps; two, in turn, so that one barrier a tile is enough
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* in = x + row * length;
    const uint8_t* keep = mask + row * length;
    float* out = y + row * length;
    float carry = 0.0f;
    for (int64_t tile = 0; tile < length; tile += kTile) {
      const int64_t at = tile + 4 * threadIdx.x;
      float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (at < length) load<kPacked>(in, keep, at, length, v);
      v[1] += v[0];
      v[2] += v[1];
      v[3] += v[2];
      float sum = v[3];  // becomes the sum of this lane and those before it
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const float other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
      }
      float before = __shfl_up_sync(0xffffffffu, sum, 1);
      if (lane == 0) before = 0.0f;
      if (lane == 31) totals[turn][warp] = sum;
      __syncthreads();
      float warps_before = 0.0f, all_warps = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        if (w == warp) warps_before = all_warps;
        all_warps += totals[turn][w];
      }
      const float offset = carry + warps_before + before;
      if (at < length) {
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] += offset;
        store<kPacked>(out, at, length, v);
      }
      carry += all_warps;
      turn ^= 1;
    }
  }
}

torch::Tensor masked_cumsum(torch::Tensor x, torch::Tensor mask) {
  TORCH_CHECK(x.is_cuda() && x.scalar_type() == torch::kFloat && x.dim() >= 1, "expected float32 on CUDA");
  TORCH_CHECK(mask.is_cuda() && mask.scalar_type() == torch::kBool && mask.sizes() == x.sizes(),
              "expected a bool mask of the same shape");
  const c10::cuda::CUDAGuard guard(x.device());
  x = x.contiguous();
  mask = mask.contiguous();
  auto y = torch::empty_like(x);
  if (x.numel() == 0) return y;
  const int64_t length = x.size(-1), rows = x.numel() / length;
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(rows, 1 << 30));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const float* in = x.data_ptr<float>();
  const uint8_t* keep = reinterpret_cast<const uint8_t*>(mask.data_ptr<bool>());
  const bool aligned = reinterpret_cast<uintptr_t>(in) % sizeof(float4) == 0
                       && reinterpret_cast<uintptr_t>(keep) % sizeof(uchar4) == 0;
  if (aligned && length % 4 == 0) {
    masked_cumsum_kernel<true><<<blocks, kThreads, 0, stream>>>(in, keep, y.data_ptr<float>(), rows, length);
  } else {
    masked_cumsum_kernel<false><<<blocks, kThreads, 0, stream>>>(in, keep, y.data_ptr<float>(), rows, length);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}
"""

extension = load_inline(name="expert_93_masked_cumsum", cpp_sources=CPP, cuda_sources=CUDA, functions=["masked_cumsum"])


class ModelNew(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x, mask):
        if self.dim % x.dim() != x.dim() - 1:
            return torch.cumsum(x * mask, dim=self.dim)
        return extension.masked_cumsum(x, mask)
