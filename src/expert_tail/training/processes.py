"""Several processes that train one adapter: each has the whole policy, draws its share of the tasks and runs its share of
an update; the first one evaluates and writes. Or each has a part of the policy: then all draw all tasks together.

`expert-tail --processes N STAGE …` starts them with torchrun (so may a user, on more than one machine); without it there
is one process, and everything here is the identity. Weights stay equal because all processes apply the same summed
gradient to the same adapter.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from expert_tail.errors import UserError
from expert_tail.policy.divide import divides
from expert_tail.policy.draw import Draw, draw
from expert_tail.policy.engine import Engine
from expert_tail.policy.settings import RuntimeSettings
from expert_tail.tasks import Task

T = TypeVar("T")


class Processes:
    """This process among those of a run: `rank` of `size`, which have the policy whole, or `divided` among them."""

    def __init__(self, rank: int = 0, size: int = 1, divided: bool = False) -> None:
        self.rank, self.size, self.divided = rank, size, divided

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every `size`-th of the items, from `rank` on."""
        return items[self.rank :: self.size]

    def gathered(self, shares: list[T]) -> list[T]:
        """The results of all processes' shares, in the order of the items that were shared out."""
        if self.size == 1:
            return shares
        numbered = gather_object([(self.rank + self.size * i, one) for i, one in enumerate(shares)])
        return [one for _, one in sorted(numbered, key=lambda pair: pair[0])]

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process; the others wait for it."""
        if self.size == 1:
            return make()
        (value,) = broadcast_object_list([make() if self.is_first else None])
        return value

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients; where none has one, there is none."""
        if self.size == 1:
            return
        has_one = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        dist.all_reduce(has_one)
        parameters = [parameter for parameter, n in zip(parameters, has_one.tolist(), strict=True) if n]
        if not parameters:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters])  # type: ignore[union-attr]
        dist.all_reduce(flat)
        parts = flat.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def sum(self, value: float) -> float:
        return sum(self.all_of([value]))

    def all_of(self, values: list[T]) -> list[T]:
        """The values of every process, those of the first one first."""
        return values if self.size == 1 else gather_object(values)


ALONE = Processes()
PATIENCE = timedelta(days=1)  # how long processes wait for the first one, which evaluates


def draw_together(
    processes: Processes, engine: Engine, tasks: Sequence[Task], *settings: Any, **options: Any
) -> list[list[Draw]]:
    """`draw`, each process for its share of the tasks: the same draws as one process makes for all of them."""
    if processes.divided:
        return draw(engine, tasks, *settings, **options)
    mine = processes.share(tasks)
    return processes.gathered(draw(engine, mine, *settings, **options) if mine else [])


@contextmanager
def together(runtime: RuntimeSettings) -> Iterator[Processes]:
    """The processes that this one was started with; a `UserError` where they are another number than the policy's parts."""
    on_cpu = runtime.device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=PATIENCE) if "RANK" in os.environ else PartialState(cpu=on_cpu)
    try:
        divided = divides(runtime)
        if divided and runtime.shards != state.num_processes:
            raise UserError(
                f"`policy.shards` is {runtime.shards}, and these are {state.num_processes} processes: start one, or as many"
            )
        yield Processes(state.process_index, state.num_processes, divided)
    finally:
        state.destroy_process_group()
