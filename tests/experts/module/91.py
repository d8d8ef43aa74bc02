"""Cumulative sums from the right: a block scans a row from its end, tile by tile, reading and writing packs in
reverse.

Why faster: one read and one write of x (8.6 GB), where the reference flips, scans and flips (26 GB).
"""

import torch
import torch.nn as nn
from torch.utils.cpp_extension import load_inline

CPP = "torch::Tensor cumsum_from_right(torch::Tensor x);"
CUDA = r"""
#include <torch/types.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kTile = 4 * kThreads;  // values of a row that a block scans at a time

// The scan goes from the right: its value number `at` lies at length - 1 - at.
template <bool kPacked>
__device__ __forceinline__ void load(const float* row, int64_t at, int64_t length, float* v) {
  if (kPacked) {  // the length is a multiple of four: all four values are there
    const float4 pack = *reinterpret_cast<const float4*>(row + length - 4 - at);
    v[0] = pack.w, v[1] = pack.z, v[2] = pack.y, v[3] = pack.x;
  } else {
    for (int i = 0; i < 4; ++i) v[i] = at + i < length ? row[length - 1 - at - i] : 0.0f;
  }
}

template <bool kPacked>
__device__ __forceinline__ void store(float* row, int64_t at, int64_t length, const float* v) {
  if (kPacked) {
    *reinterpret_cast<float4*>(row + length - 4 - at) = make_float4(v[3], v[2], v[1], v[0]);
  } else {
    for (int i = 0; i < 4; ++i) {
      if (at + i < length) row[length - 1 - at - i] = v[i];
    }
  }
}

// A block scans a row, tile by tile; a thread has four values in a row.
template <bool kPacked>
__global__ void __launch_bounds__(kThreads) cumsum_from_right_kernel(const float* __restrict__ x,
                                                                     float* __restrict__ y, int64_t rows,
                                                                     int64_t length) {
  __shared__ float totals[2][kWarps];  // of warps; two, in turn, so that one barrier a tile is enough
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int turn = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* in = x + row * length;
    float* out = y + row * length;
    float carry = 0.0f;
    for (int64_t tile = 0; tile < length; tile += kTile) {
      const int64_t at = tile + 4 * threadIdx.x;
      float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (at < length) load<kPacked>(in, at, length, v);
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

torch::Tensor cumsum_from_right(torch::Tensor x) {
  TORCH_CHECK(x.is_cuda() && x.scalar_type() == torch::kFloat && x.dim() >= 1, "expected float32 on CUDA");
  const c10::cuda::CUDAGuard guard(x.device());
  x = x.contiguous();
  auto y = torch::empty_like(x);
  if (x.numel() == 0) return y;
  const int64_t length = x.size(-1), rows = x.numel() / length;
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(rows, 1 << 30));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const float* in = x.data_ptr<float>();
  const bool aligned = reinterpret_cast<uintptr_t>(in) % sizeof(float4) == 0;
  if (aligned && length % 4 == 0) {
    cumsum_from_right_kernel<true><<<blocks, kThreads, 0, stream>>>(in, y.data_ptr<float>(), rows, length);
  } else {
    cumsum_from_right_kernel<false><<<blocks, kThreads, 0, stream>>>(in, y.data_ptr<float>(), rows, length);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}
"""

extension = load_inline(
    name="expert_91_cumsum_from_right", cpp_sources=CPP, cuda_sources=CUDA, functions=["cumsum_from_right"]
)


class ModelNew(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        if self.dim % x.dim() != x.dim() - 1:
            return torch.cumsum(x.flip(self.dim), dim=self.dim).flip(self.dim)
        return extension.cumsum_from_right(x)
