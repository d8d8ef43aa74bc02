"""The work that no implementation of a task can leave out: compulsory traffic and dense products, from the task table.

These facts carry the roofline, below which no time is believed. So each is a lower bound, and what cannot be shown to be
needed counts as nothing:

- an input's bytes count once, but not those that some input in use leaves without influence (what a mask drops, half of
  a triangular or symmetric matrix, what a product that has reached zero no longer needs);
- an output's bytes count once, but not where it can be a view of an input (an activation that changes nothing on positive
  values), nor where it is the same for all inputs (half of a triangular matrix, gaps of a strided transposed convolution),
  which may be kept ready;
- parameters do not count: they are small, and may be prepared in any form before the first call;
- multiply-adds count for dense contractions alone. A convolution counts one for each output element and input channel,
  whatever its kernel, since Winograd's algorithms and Fourier transforms come near that; a transposed convolution, its
  mirror image, one for each input element and output channel. Products with a diagonal matrix count none.
"""

import functools
import hashlib
from dataclasses import dataclass

from expert_tail.tasks.level1 import LEVEL1
from expert_tail.tasks.render import SCALES, Workload, render_workload
from expert_tail.tasks.task import Task


@dataclass(frozen=True)
class Work:
    """Shares of arguments that must be read and of outputs that must be written; multiply-adds of dense contractions."""

    reads: tuple[float, ...]  # for each argument of forward
    writes: float
    macs_per_output: float  # for each element of the outputs
    macs_per_input: float  # for each element of the first argument


def work_of(task: Task) -> Work | None:
    """The work of a task of the built-in suite, at either scale, whatever its id; None for any other source."""
    return _built_in().get(task.source_sha256)


def work_of_workload(workload: Workload, scale: str) -> Work:
    """Evaluate the facts of a row of the table at a scale."""
    names = workload.values(scale)
    return Work(
        reads=tuple(_value(workload.reads.get(argument, "1"), names) for argument in workload.inputs),
        writes=_value(workload.writes, names),
        macs_per_output=_value(workload.macs_per_output, names),
        macs_per_input=_value(workload.macs_per_input, names),
    )


def _value(expression: str, names: dict[str, object]) -> float:
    return float(eval(expression, {"__builtins__": {}}, names))


@functools.cache
def _built_in() -> dict[str, Work]:
    """Work by digest of the source, so that a problem file with another id or text is never taken for a built-in one."""
    return {
        hashlib.sha256(render_workload(workload, scale).encode()).hexdigest(): work_of_workload(workload, scale)
        for workload in LEVEL1.values()
        for scale in SCALES
    }
