"""Workloads as data, and how one is rendered to the source of a KernelBench-format module."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from expert_tail.tasks.task import TaskError

Scale = Literal["cpu", "gpu"]
SCALES: tuple[str, ...] = get_args(Scale)
LINE_LENGTH = 120


def check_scale(scale: str) -> None:
    if scale not in SCALES:
        raise TaskError(f"unknown scale {scale!r}: use one of {', '.join(SCALES)}")


@dataclass(frozen=True)
class Workload:
    """One row of a suite's table. Expressions are Python source and may use the names in `sizes` and `constants`."""

    task_id: int
    name: str
    forward: str  # expression that forward returns; lines above the last are statements before it
    inputs: Mapping[str, str]  # argument of forward: expression; each further line rebinds the argument
    sizes: Mapping[str, tuple[int, int]]  # module constant: its value at (gpu, cpu) scale
    constants: Mapping[str, object] = field(default_factory=dict)  # module constants that no scale changes
    signature: str = ""  # parameters of __init__ after self
    attributes: Mapping[str, str] = field(default_factory=dict)  # attribute that __init__ sets: expression
    init_inputs: str = ""  # elements of the list that get_init_inputs returns
    draws: Mapping[str, str] = field(default_factory=dict)  # random values that several inputs share
    # Work that no implementation can leave out (see `work`), as expressions.
    reads: Mapping[str, str] = field(default_factory=dict)  # argument: share that must be read, where it is not 1
    writes: str = "1"  # share of the output that must be written
    macs_per_output: str = "0"  # multiply-adds of a dense contraction for each element of the output
    macs_per_input: str = "0"  # the same for each element of the first argument

    @property
    def full_name(self) -> str:
        return f"{self.task_id}_{self.name}"

    def values(self, scale: str) -> dict[str, object]:
        """The module constants at a scale."""
        check_scale(scale)
        return {name: value[0 if scale == "gpu" else 1] for name, value in self.sizes.items()} | dict(self.constants)


def render_workload(workload: Workload, scale: str) -> str:
    """The module source of one workload at one scale; equal arguments give equal text."""
    model = "\n".join(_model_lines(workload))
    imports = ["import torch", "import torch.nn as nn"]
    if "math." in model:
        imports.insert(0, "import math\n")
    if "F." in model:
        imports.append("import torch.nn.functional as F")
    constants = [f"{name} = {value!r}" for name, value in workload.values(scale).items()]
    init_inputs = ["def get_init_inputs():", *_folded(f"    return [{workload.init_inputs}]")]
    parts = [imports, [model], constants, _inputs_lines(workload), init_inputs]
    return "\n\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _model_lines(workload: Workload) -> Iterator[str]:
    yield "class Model(nn.Module):"
    if workload.signature:
        yield from _folded(f"    def __init__(self, {workload.signature}):")
        yield "        super().__init__()"
        for name, expression in workload.attributes.items():
            yield from _folded(f"        self.{name} = {expression}")
        yield ""
    yield f"    def forward(self, {', '.join(workload.inputs)}):"
    *statements, result = workload.forward.split("\n")
    for statement in statements:
        yield f"        {statement}"
    yield f"        return {result}"


def _folded(line: str) -> Iterator[str]:
    """The line, or, where it is too long, the same call, signature or list with its elements on lines of their own."""
    if len(line) <= LINE_LENGTH:
        yield line
        return
    indent = " " * (len(line) - len(line.lstrip()))
    opening, closing = "[]" if line.strip().startswith("return [") else "()"
    head, _, rest = line.partition(opening)
    arguments, _, tail = rest.rpartition(closing)
    inner = indent + " " * 4
    yield head + opening
    yield from textwrap.wrap(arguments, LINE_LENGTH, initial_indent=inner, subsequent_indent=inner)
    yield indent + closing + tail


def _inputs_lines(workload: Workload) -> Iterator[str]:
    yield "def get_inputs():"
    for name, expressions in {**workload.draws, **workload.inputs}.items():
        for expression in expressions.split("\n"):
            yield f"    {name} = {expression}"
    yield f"    return [{', '.join(workload.inputs)}]"
