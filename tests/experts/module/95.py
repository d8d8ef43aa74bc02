"""Cross entropy with the log of the sum of exponentials on the fly: a block takes a row, and reads it once.

Why faster: one read of the predictions (0.5 GB), where the reference reads them, writes all log-probabilities, and
picks one in a row (at least 1.1 GB). The running maximum keeps the exponentials in range.
"""

import torch.nn as nn
from torch.utils.cpp_extension import load_inline

CPP = "torch::Tensor row_losses(torch::Tensor predictions, torch::Tensor targets, int64_t ignored);"
CUDA = r"""
#include <torch/types.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// sum of exp(v - high) over the values seen
struct Running {
  float high = -INFINITY;
  float sum = 0.0f;

  __device__ __forceinline__ void add(float v) {
    if (v > high) {
      sum = sum * expf(high - v) + 1.0f;
      high = v;
    } else if (v != -INFINITY) {  // NaN comes here, too, and stays
      sum += expf(v - high);
    }
  }

  __device__ __forceinline__ void merge(float other_high, float other_sum) {
    const float top = fmaxf(high, other_high);
    if (top == -INFINITY) {
      sum += other_sum;  // nothing, or NaN
      return;
    }
    sum = sum * expf(high - top) + other_sum * expf(other_high - top);
    high = top;
  }
};

__device__ __forceinline__ void merge_lanes(Running& r, unsigned mask, int width) {
  for (int distance = width / 2; distance > 0; distance /= 2) {
    const float high = __shfl_xor_sync(mask, r.high, distance);
    const float sum = __shfl_xor_sync(mask, r.sum, distance);
    r.merge(high, sum);
  }
}

template <bool kPacked>
__global__ void row_losses_kernel(const float* __restrict__ predictions, const int64_t* __restrict__ targets,
                                  float* __restrict__ losses, int64_t rows, int64_t classes, int64_t ignored) {
  __shared__ float highs[kWarps];
  __shared__ float sums[kWarps];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* x = predictions + row * classes;
    Running r;
    if (kPacked) {
      for (int64_t i = threadIdx.x; i < classes / 4; i += kThreads) {
        const float4 v = reinterpret_cast<const float4*>(x)[i];
        r.add(v.x);
        r.add(v.y);
        r.add(v.z);
        r.add(v.w);
      }
    } else {
      for (int64_t i = threadIdx.x; i < classes; i += kThreads) r.add(x[i]);
    }
    merge_lanes(r, 0xffffffffu, 32);
    if (threadIdx.x % 32 == 0) {
      highs[threadIdx.x / 32] = r.high;
      sums[threadIdx.x / 32] = r.sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int warp = 1; warp < kWarps; ++warp) r.merge(highs[warp], sums[warp]);
      const int64_t target = targets[row];
      float loss = 0.0f;
      if (target != ignored) {
        loss = target >= 0 && target < classes ? r.high + logf(r.sum) - x[target] : NAN;
      }
      losses[row] = loss;
    }
    __syncthreads();  // before the next row takes the shared arrays
  }
}

torch::Tensor row_losses(torch::Tensor predictions, torch::Tensor targets, int64_t ignored) {
  TORCH_CHECK(predictions.is_cuda() && targets.is_cuda(), "expected CUDA tensors");
  TORCH_CHECK(predictions.scalar_type() == torch::kFloat && targets.scalar_type() == torch::kLong,
              "expected float32 predictions and int64 targets");
  TORCH_CHECK(predictions.dim() == 2 && targets.dim() == 1 && predictions.size(0) == targets.size(0),
              "shapes do not fit");
  const c10::cuda::CUDAGuard guard(predictions.device());
  predictions = predictions.contiguous();
  targets = targets.contiguous();
  const int64_t rows = predictions.size(0), classes = predictions.size(1);
  auto losses = torch::empty({rows}, predictions.options());
  if (rows == 0) return losses;
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(rows, 1 << 30));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const float* x = predictions.data_ptr<float>();
  if (reinterpret_cast<uintptr_t>(x) % sizeof(float4) == 0 && classes % 4 == 0) {
    row_losses_kernel<true><<<blocks, kThreads, 0, stream>>>(x, targets.data_ptr<int64_t>(), losses.data_ptr<float>(),
                                                             rows, classes, ignored);
  } else {
    row_losses_kernel<false><<<blocks, kThreads, 0, stream>>>(x, targets.data_ptr<int64_t>(),
                                                              losses.data_ptr<float>(), rows, classes, ignored);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return losses;
}
"""

IGNORED = -100  # the class that F.cross_entropy leaves out of the mean

extension = load_inline(name="expert_95_cross_entropy", cpp_sources=CPP, cuda_sources=CUDA, functions=["row_losses"])


class ModelNew(nn.Module):
    def forward(self, predictions, targets):
        losses = extension.row_losses(predictions, targets, IGNORED)
        return losses.sum() / (targets != IGNORED).sum()
