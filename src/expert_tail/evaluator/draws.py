"""The inputs of a task: drawn by its reference's process, varied by the parent, laid out for the workers.

What they are drawn from is a secret of the parent's: no process that runs a candidate ever holds it, or knows what follows.
"""

import hashlib
import os
import time
from typing import Any

import numpy as np
import torch

from expert_tail.evaluator.arm import Arm
from expert_tail.evaluator.correctness import VARIATIONS, Variation, vary
from expert_tail.evaluator.layout import Inputs, Layout
from expert_tail.evaluator.process import WorkerFailure
from expert_tail.evaluator.room import LARGE_BYTES, Room
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.tensors import Tensor, read_tensor

POOL_BYTES = {"cpu": 1 << 29, "cuda": 1 << 33}  # inputs kept for the next candidate; more are drawn again
SETTLE_S = 0.05  # freed device memory is cleared in the background, which takes bandwidth from what is timed


class Draws:
    """Inputs number 0 and on. The first are those of the cases, one variation after the other, as many as there are
    correctness trials. Then those of trials, of `layout.n_calls` calls each.

    `variations`: those that the task allows. Set it, and `layout`, when they are known. Raises `WorkerFailure` where the
    reference fails.
    """

    layout: Layout

    def __init__(self, settings: EvaluatorSettings, room: Room) -> None:
        self._settings, self._room = settings, room
        self._secret = os.urandom(16)
        self.variations: list[Variation] = [VARIATIONS[0]]
        self._pool: dict[tuple[int, int], Inputs] = {}
        self._timed = 0
        self._reference: Arm

    def start(self, reference: Arm) -> None:
        """Have this one draw, in which the task's module is loaded; and learn what inputs look like."""
        self._reference = reference
        self.layout = Layout.of(self._drawn(0), 1)

    def seed(self, purpose: str) -> int:
        return int.from_bytes(hashlib.sha256(self._secret + purpose.encode()).digest()[:6])

    def forget(self) -> None:
        """Give back inputs that are kept."""
        self._pool = {}

    def of_case(self, index: int) -> Inputs:
        """One call's."""
        return self._inputs(index, 1)

    def new_trials(self, count: int) -> int:
        """The number before those of `count` trials on whose inputs nothing was timed yet."""
        self._timed += count
        return self._timed - count

    def of_trial(self, index: int) -> Inputs:
        """The same for all that are timed in it. Number 0 is kept for more of them."""
        return self._inputs(self._first(index), self.layout.n_calls)

    def variations_of_trial(self, index: int) -> list[int]:
        """Places, among `variations`, of those of a trial's calls."""
        return [self._place(self._first(index) + call) for call in range(self.layout.n_calls)]

    def _first(self, trial: int) -> int:
        return self._settings.correctness_trials + trial * self.layout.n_calls

    def _inputs(self, first: int, n_calls: int) -> Inputs:
        """Inputs number `first` and those after it."""
        if (first, n_calls) in self._pool:
            return self._pool[first, n_calls]
        inputs = Inputs.blank(self.layout, n_calls, self._room.device)
        for call in range(n_calls):
            self._draw(first + call, inputs.of_call(self.layout, call))
        n_bytes = sum(known.packed.nbytes for known in [*self._pool.values(), inputs])
        if inputs.packed.nbytes > LARGE_BYTES or n_bytes > POOL_BYTES[self._room.device.type]:
            if not self._room.is_left():
                self._room.trim()
                time.sleep(SETTLE_S)
        elif first < self._first(1):  # those of later trials are used once
            self._pool[first, n_calls] = inputs
        return inputs

    def _draw(self, index: int, places: list[Tensor]) -> None:
        """Put tensors there that the task's `get_inputs` draws, and vary them."""
        drawn = [x for x in self._drawn(index) if isinstance(x, Tensor)]
        if [(x.dtype, x.shape) for x in drawn] != [(x.dtype, x.shape) for x in places]:
            raise WorkerFailure("runtime_error", "its get_inputs returns tensors of other shapes each time")
        for place, x in zip(places, drawn, strict=True):
            place.data.copy_(x.data)
        device = self._room.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the reference goes on
        if self._room.is_short_after(drawn):
            self._reference.release(self._settings.timeout_s)
        rng = torch.Generator(device).manual_seed(self.seed(f"variation {index}"))
        vary([place.data for place in places], self._variation(index), rng)

    def _drawn(self, index: int) -> list[Any]:
        """Tensors, in the reference's memory, and plain values, as the task's `get_inputs` returns them."""
        command = {"do": "draw", "seed": self.seed(f"inputs {index}")}
        described, spans = self._reference.worker.call(command, "drawn", self._settings.timeout_s)
        source = self._reference.memory.borrowed(spans)
        return [read_tensor(source, x) if "address" in x else x["value"] for x in described]

    def _place(self, index: int) -> int:
        """Those of timing take each variation as often, in an order that is not known: else a candidate could tell by its
        count of calls which inputs follow, and be right on those alone.
        """
        timed, n = index - self._settings.correctness_trials, len(self.variations)
        order = np.random.default_rng(self.seed(f"order {timed // n}")).permutation(n)
        return int(order[timed % n])

    def _variation(self, index: int) -> Variation:
        if index < self._settings.correctness_trials:
            return VARIATIONS[index % len(VARIATIONS)]
        return self.variations[self._place(index)]
