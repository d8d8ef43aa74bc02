"""What a candidate must return: on the cases it is tried on before it is timed, and on the inputs of its timing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from expert_tail.evaluator.correctness import Expected, mismatch
from expert_tail.evaluator.layout import Inputs
from expert_tail.evaluator.process import WorkerFailure
from expert_tail.evaluator.tensors import Tensor, same_bytes


@dataclass(frozen=True, eq=False)
class Output:
    """An output of the reference in some calls: as computed, and what it is in exact arithmetic."""

    computed: Tensor
    exact: Expected


@dataclass(frozen=True, eq=False)
class Case:
    """Inputs that a candidate is tried on before it is timed."""

    index: int  # of the inputs
    errors: list[float]  # the reference's own, for each output
    is_finite: bool  # whether all that it computes is: then other inputs of this kind on which it is not tell nothing
    expected: list[Output] | None  # None: too large to be kept; the baseline runs beside the candidate instead


@dataclass(frozen=True, eq=False)
class Question:
    """A case as arms are asked it, and what they must answer."""

    inputs: Inputs
    expected: list[Output]
    is_small: bool  # whether arms have room to keep the outputs of the case before, to see that they stay as they were


def check(outputs: Sequence[Sequence[Tensor]], expected: list[Output]) -> None:
    """Raise `WorkerFailure` unless the outputs of all calls are what they must be; shapes and dtypes are already."""
    for j, wanted in enumerate(expected):
        data = stacked(outputs, j)
        if same_bytes(data, wanted.computed.data):
            continue  # most candidates compute the reference's very bits
        if problem := mismatch(Tensor(wanted.computed.dtype, data).rows(len(outputs)), wanted.exact):
            raise WorkerFailure("incorrect", problem, "wrong_values")


def stacked(outputs: Sequence[Sequence[Tensor]], j: int) -> torch.Tensor:
    return outputs[0][j].data if len(outputs) == 1 else torch.stack([call[j].data for call in outputs])
