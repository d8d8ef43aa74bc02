"""What a task takes if one merely moves its data: a floor for practice, where the roofline is one for physics.

The roofline allows caches at their best and kernels that nobody has. So it rarely shows that a reference cannot be beaten.
The floor is measured, by the evaluator itself and under its conditions (fresh inputs from another process, new outputs,
every call paid for): a task that copies as many bytes as the real one writes, and sums as many more as it reads. Or, where
that takes longer, it is the time of the task's dense products at the device's measured peak.
"""

from dataclasses import dataclass
from typing import Any

from expert_tail.evaluator.roofline import Ceilings
from expert_tail.tasks import Task
from expert_tail.tasks.work import Work

_SOURCE = """import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        return {result}

def get_inputs():
    return [torch.rand({read})]

def get_init_inputs():
    return []
"""
_SMALL = 0.01  # of the bytes read: what is left out


@dataclass(frozen=True)
class Movement:
    """Bytes that a task needs of its inputs, bytes of its outputs, and multiply-adds of its dense products."""

    read: int
    written: int
    macs: float

    def task(self) -> Task:
        """A task that moves as much, as whole float32 numbers; it never writes more than it reads."""
        read, written = max(self.read // 4, 1), min(self.written, self.read) // 4
        parts = []
        if written > _SMALL * read:
            parts.append("x.clone()" if written > (1 - _SMALL) * read else f"x[:{written}].clone()")
        if written < (1 - _SMALL) * read:
            parts.append(f"x[{written}:].sum()" if parts else "x.sum()")
        return Task(0, "0_movement", 0, _SOURCE.format(read=read, result=", ".join(parts)))

    def arithmetic_ms(self, ceilings: Ceilings | None) -> float:
        return 1e3 * 2 * self.macs / ceilings.peak if ceilings else 0.0


def movement_of(task: Task, work: Work) -> Movement:
    """The movement of a built-in task, whose shapes PyTorch derives without computing anything."""
    import torch

    namespace: dict[str, Any] = {}
    with torch.device("meta"), torch.no_grad():
        exec(task.reference_source, namespace)
        inputs = namespace["get_inputs"]()
        output = namespace["Model"](*namespace["get_init_inputs"]())(*inputs)
    read = sum(share * x.nbytes for share, x in zip(work.reads, inputs, strict=True) if isinstance(x, torch.Tensor))
    macs = work.macs_per_output * output.numel() + work.macs_per_input * inputs[0].numel()
    return Movement(round(read), output.nbytes, macs)
