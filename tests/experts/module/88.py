"""The tanh form of GELU in one kernel, four values a thread.

Why faster: one read and one write of x (0.5 GB) instead of the eight elementwise kernels of the reference (4 GB).
"""

import torch.nn as nn
from torch.utils.cpp_extension import load_inline

CPP = "torch::Tensor new_gelu(torch::Tensor x);"
CUDA = r"""
#include <torch/types.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

__device__ __forceinline__ float gelu(float v) {
  constexpr float kScale = 0.7978845608028654f;  // sqrt(2 / pi)
  return 0.5f * v * (1.0f + tanhf(kScale * (v + 0.044715f * v * v * v)));
}

// Packs of four values, and one by one those that are left over or do not lie on a multiple of 16 bytes.
__global__ void new_gelu_kernel(const float* __restrict__ x, float* __restrict__ y, int64_t packs, int64_t n) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = first; i < packs; i += step) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];
    reinterpret_cast<float4*>(y)[i] = make_float4(gelu(v.x), gelu(v.y), gelu(v.z), gelu(v.w));
  }
  for (int64_t i = 4 * packs + first; i < n; i += step) {
    y[i] = gelu(x[i]);
  }
}

torch::Tensor new_gelu(torch::Tensor x) {
  TORCH_CHECK(x.is_cuda() && x.scalar_type() == torch::kFloat, "expected float32 on CUDA");
  const c10::cuda::CUDAGuard guard(x.device());
  x = x.contiguous();
  auto y = torch::empty_like(x);
  const int64_t n = x.numel();
  if (n == 0) return y;
  const bool aligned = reinterpret_cast<uintptr_t>(x.data_ptr<float>()) % sizeof(float4) == 0;
  const int64_t packs = aligned ? n / 4 : 0;
  constexpr int threads = 256;
  const int64_t items = aligned ? packs + 3 : n;
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>((items + threads - 1) / threads, 1 << 20));
  new_gelu_kernel<<<blocks, threads, 0, c10::cuda::getCurrentCUDAStream()>>>(x.data_ptr<float>(), y.data_ptr<float>(),
                                                                            packs, n);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}
"""

extension = load_inline(name="expert_88_new_gelu", cpp_sources=CPP, cuda_sources=CUDA, functions=["new_gelu"])


class ModelNew(nn.Module):
    def forward(self, x):
        return extension.new_gelu(x)
