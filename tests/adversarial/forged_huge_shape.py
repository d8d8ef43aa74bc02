"""Answers a shape that the evaluator cannot hold, with strides of 0.
task: 19
verdict: incorrect wrong_shape
"""

import json
import os

import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        good = {
            "dtype": "torch.float32",
            "shape": [128, 12288],
            "strides": [12288, 1],
            "address": x.data_ptr(),
            "device": "cpu",
        }
        message = json.dumps({"outputs": [[good | {"shape": [1 << 40, 1 << 40], "strides": [0, 0]}]], "spans": []})
        for descriptor in range(3, 16):
            try:
                os.write(descriptor, message.encode())
            except OSError:
                continue
        while True:
            os.sched_yield()
