"""diag(A) @ B scales row i of B by A[i]: one multiplication an element in one pass, instead of a 4096^3 product with
zeros.

Why faster: 137 GFLOP become 134 MB of traffic, which float4 loads and stores move at the speed of the memory.
"""

import torch.nn as nn
from torch.utils.cpp_extension import load_inline

CPP = "torch::Tensor scale_rows(torch::Tensor scale, torch::Tensor matrix);"
CUDA = r"""
#include <torch/types.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

__device__ __forceinline__ float times(float s, float v) { return s * v; }
__device__ __forceinline__ float4 times(float s, float4 v) {
  return make_float4(s * v.x, s * v.y, s * v.z, s * v.w);
}

// Rows along y, packs of a row (one or four floats) along x.
template <typename Pack>
__global__ void scale_rows_kernel(const float* __restrict__ scale, const Pack* __restrict__ matrix,
                                  Pack* __restrict__ result, int64_t rows, int64_t packs) {
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pack >= packs) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    result[row * packs + pack] = times(scale[row], matrix[row * packs + pack]);
  }
}

template <typename Pack>
void launch(const torch::Tensor& scale, const torch::Tensor& matrix, torch::Tensor& result) {
  constexpr int threads = 256;
  const int64_t rows = matrix.size(0);
  const int64_t packs = matrix.size(1) * static_cast<int64_t>(sizeof(float)) / static_cast<int64_t>(sizeof(Pack));
  const dim3 blocks(static_cast<unsigned>((packs + threads - 1) / threads),
                    static_cast<unsigned>(std::min<int64_t>(rows, 65535)));
  scale_rows_kernel<Pack><<<blocks, threads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      scale.data_ptr<float>(), reinterpret_cast<const Pack*>(matrix.data_ptr<float>()),
      reinterpret_cast<Pack*>(result.data_ptr<float>()), rows, packs);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

torch::Tensor scale_rows(torch::Tensor scale, torch::Tensor matrix) {
  TORCH_CHECK(scale.is_cuda() && matrix.is_cuda(), "expected CUDA tensors");
  TORCH_CHECK(scale.scalar_type() == torch::kFloat && matrix.scalar_type() == torch::kFloat, "expected float32");
  TORCH_CHECK(scale.dim() == 1 && matrix.dim() == 2 && scale.size(0) == matrix.size(0), "shapes do not fit");
  const c10::cuda::CUDAGuard guard(matrix.device());
  scale = scale.contiguous();
  matrix = matrix.contiguous();
  auto result = torch::empty_like(matrix);
  if (matrix.numel() == 0) return result;
  const bool aligned = reinterpret_cast<uintptr_t>(matrix.data_ptr<float>()) % sizeof(float4) == 0;
  if (aligned && matrix.size(1) % 4 == 0) {
    launch<float4>(scale, matrix, result);
  } else {
    launch<float>(scale, matrix, result);
  }
  return result;
}
"""

extension = load_inline(name="expert_12_scale_rows", cpp_sources=CPP, cuda_sources=CUDA, functions=["scale_rows"])


class ModelNew(nn.Module):
    def forward(self, A, B):
        return extension.scale_rows(A, B)
