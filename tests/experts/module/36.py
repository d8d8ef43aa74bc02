"""RMS norm over channels: a thread takes one pixel, keeps its channels in registers, and writes them scaled.

Why faster: one read and one write of x (15 GB), coalesced along the pixels, where the reference writes x^2, reads it
for the mean, and reads x again for the division (37 GB).
"""

import torch.nn as nn
from torch.utils.cpp_extension import load_inline

CPP = "torch::Tensor rms_norm(torch::Tensor x, double eps);"
CUDA = r"""
#include <torch/types.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

// At most kChannels channels, all of them in registers: every index of `value` is known to the compiler.
template <int kChannels>
__global__ void rms_norm_in_registers(const float* __restrict__ x, float* __restrict__ y, int64_t images, int channels,
                                      int64_t pixels, float eps) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= pixels) return;
  for (int64_t image = blockIdx.y; image < images; image += gridDim.y) {
    const int64_t offset = image * channels * pixels + pixel;
    float value[kChannels];
    float squares = 0.0f;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      value[c] = c < channels ? x[offset + c * pixels] : 0.0f;
    }
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      squares = fmaf(value[c], value[c], squares);
    }
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(channels) + eps);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      if (c < channels) y[offset + c * pixels] = value[c] * scale;
    }
  }
}

// Any number of channels, read twice.
__global__ void rms_norm_in_two_passes(const float* __restrict__ x, float* __restrict__ y, int64_t images,
                                       int64_t channels, int64_t pixels, float eps) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= pixels) return;
  for (int64_t image = blockIdx.y; image < images; image += gridDim.y) {
    const int64_t offset = image * channels * pixels + pixel;
    float squares = 0.0f;
    for (int64_t c = 0; c < channels; ++c) {
      const float value = x[offset + c * pixels];
      squares = fmaf(value, value, squares);
    }
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(channels) + eps);
    for (int64_t c = 0; c < channels; ++c) {
      y[offset + c * pixels] = x[offset + c * pixels] * scale;
    }
  }
}

torch::Tensor rms_norm(torch::Tensor x, double eps) {
  TORCH_CHECK(x.is_cuda() && x.scalar_type() == torch::kFloat && x.dim() >= 2, "expected float32 images on CUDA");
  const c10::cuda::CUDAGuard guard(x.device());
  x = x.contiguous();
  auto y = torch::empty_like(x);
  if (x.numel() == 0) return y;
  const int64_t images = x.size(0), channels = x.size(1), pixels = x.numel() / (images * channels);
  constexpr int threads = 128;
  const dim3 blocks(static_cast<unsigned>((pixels + threads - 1) / threads),
                    static_cast<unsigned>(std::min<int64_t>(images, 65535)));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const float* in = x.data_ptr<float>();
  float* out = y.data_ptr<float>();
  if (channels <= 64) {
    rms_norm_in_registers<64><<<blocks, threads, 0, stream>>>(in, out, images, static_cast<int>(channels), pixels,
                                                              static_cast<float>(eps));
  } else {
    rms_norm_in_two_passes<<<blocks, threads, 0, stream>>>(in, out, images, channels, pixels,
                                                           static_cast<float>(eps));
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}
"""

extension = load_inline(name="expert_36_rms_norm", cpp_sources=CPP, cuda_sources=CUDA, functions=["rms_norm"])


class ModelNew(nn.Module):
    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return extension.rms_norm(x, self.eps)
