"""A CUDA kernel that does not compile.
task: 12
verdict: compile_error
"""

import torch.nn as nn
from torch.utils.cpp_extension import load_inline

SOURCE = r"""
#include <torch/extension.h>
#include <c10/cuda/CUDAStream.h>
__global__ void scale_rows(const float* a, const float* b, float* out, long n, long m) {
    long i ==blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < n * m) out[i] = a[i / m] * b[i];
}
torch::Tensor scale(torch::Tensor a, torch::Tensor b) {
    auto out = torch::empty_like(b);
    long n = b.size(0), m = b.size(1);
    scale_rows<<<(n * m + 255) / 256, 256, 0, c10::cuda::getCurrentCUDAStream()>>>(
        a.data_ptr<float>(), b.data_ptr<float>(), out.data_ptr<float>(), n, m);
    return out;
}
"""
extension = load_inline(
    "scale_rows", "torch::Tensor scale(torch::Tensor a, torch::Tensor b);", SOURCE, functions=["scale"]
)


class ModelNew(nn.Module):
    def forward(self, A, B):
        return extension.scale(A, B)
