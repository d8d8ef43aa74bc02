"""A task that takes microseconds, and candidates for it."""

import textwrap

from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.tasks import Task

SETTINGS = EvaluatorSettings(device="cpu", min_pairs=6, max_pairs=6, timeout_s=4, memory_gib=1)
# For tests that count: what six pairs make look faster by chance, one candidate in 64, is not timed again.
ONCE = SETTINGS.model_copy(update={"replicates": 1})


def module(name: str, init: str, forward: str, top: str = "") -> str:
    return (
        f"import os, signal, sys, time\nimport torch\nimport torch.nn as nn\n{top}\n\nclass {name}(nn.Module):\n"
        f"    def __init__(self, features):\n        super().__init__()\n{textwrap.indent(textwrap.dedent(init), ' ' * 8)}\n"
        f"    def forward(self, x):\n{textwrap.indent(textwrap.dedent(forward), ' ' * 8)}\n"
    )


INIT = "self.norm = nn.LayerNorm(features)\nself.linear = nn.Linear(features, features)"
FORWARD = "return self.linear(self.norm(x))"
TASK = Task(
    1,
    "1_norm_linear",
    1,
    module("Model", INIT, FORWARD)
    + "\ndef get_inputs():\n    return [torch.rand(32, 64)]\n\ndef get_init_inputs():\n    return [64]\n",
)


def candidate(forward: str = FORWARD, init: str = INIT, top: str = "") -> str:
    return module("ModelNew", init, forward, top)
