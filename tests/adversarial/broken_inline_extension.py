"""Inline C++ that does not compile.
task: 19
verdict: compile_error
"""

import torch.nn as nn
from torch.utils.cpp_extension import load_inline

extension = load_inline("broken", "this is no C++", functions=["broken"])


class ModelNew(nn.Module):
    def forward(self, x):
        return extension.broken(x)
