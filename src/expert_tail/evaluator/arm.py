"""One side of a comparison: a worker with a model in it, and the memory it shares. Baseline and candidate are one each."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from expert_tail.evaluator.layout import Inputs, Layout
from expert_tail.evaluator.memory import Memory
from expert_tail.evaluator.process import INPUT_MUTATED, Worker, WorkerFailure, forged
from expert_tail.evaluator.tensors import Source, Tensor, read_tensor, same_bytes
from expert_tail.evaluator.worker import RUN, RUN_IDLE, RUN_NOTHING


class Disturbed(Exception):
    """Other work ran on the device when none should."""


@dataclass(frozen=True, eq=False)
class Ran:
    """One run of an arm: its seconds by the parent's clock, and the outputs of each call."""

    seconds: float
    outputs: list[list[Tensor]]
    spans: Any  # the device memory they lie in, as the worker described it

    def sharing(self, others: Iterable["Ran"]) -> "Ran":
        """This run, with the first of others' outputs of the same bytes in place of its own.

        Most candidates compute the baseline's very bits, and of large outputs there is no room for one copy each.
        """
        for other in {id(other.outputs): other for other in others}.values():
            if all(map(_same_outputs, self.outputs, other.outputs)):
                return replace(self, outputs=other.outputs)
        return self


@dataclass(frozen=True, eq=False)
class Arm:
    worker: Worker
    memory: Memory

    def allocate(self, layout: Layout, timeout_s: float) -> None:
        self.memory.allocate(layout, timeout_s)

    def run(
        self,
        inputs: Inputs,
        timeout_s: float,
        command: bytes = RUN,
        wanted: Sequence[Tensor] | None = None,
        checks_inputs: bool = True,
        puts_inputs: bool = True,
    ) -> Ran:
        """Run the model once on each call's inputs. The worker stays frozen.

        Raises `WorkerFailure`, also for a model whose outputs are not like `wanted`, if given, and for one that changed its
        inputs, unless the caller checks them. Before, `put` may have put them there, without anything between it and this.
        """
        if puts_inputs:
            self.put(inputs)
        try:
            ran = self._run(command, inputs.n_calls, timeout_s, wanted)
        except Exception:
            if checks_inputs:
                self.memory.forget()  # what has failed may have changed them before
            raise
        if checks_inputs and not self.memory.holds(inputs):
            raise WorkerFailure("incorrect", "the inputs are changed after the call", INPUT_MUTATED)
        return ran

    def put(self, inputs: Inputs) -> None:
        """Put inputs where the worker finds them. Raises `WorkerFailure` where its device does not come to rest."""
        self.memory.write(inputs)

    def look(self, seconds: float) -> None:
        """See for so long whether the device is at rest; leaves nothing in its cache. Raises `Disturbed`."""
        if self.memory.is_disturbed(seconds):
            raise Disturbed

    def wake(self, timeout_s: float) -> None:
        """Have the worker use its device."""
        self._run(RUN_NOTHING, None, timeout_s, None)

    def idle(self, timeout_s: float) -> float:
        """Seconds that a run of no work takes, until the last run's outputs are read again."""
        return self._run(RUN_IDLE, None, timeout_s, None).seconds

    def _run(self, command: bytes, n_calls: int | None, timeout_s: float, wanted: Sequence[Tensor] | None) -> Ran:
        """`n_calls`: None for as many as the last run's."""
        run = self.worker.run(b"%s %d" % (command, n_calls or 0), timeout_s, self.memory.outputs)
        if not isinstance(run.outputs, list) or (n_calls is not None and len(run.outputs) != n_calls):
            raise forged()
        return Ran(run.seconds, [_read(run.source, described, wanted) for described in run.outputs], run.spans)

    def check_intact(self, ran: Ran) -> None:
        """Raise `WorkerFailure` if a later run has overwritten the outputs of `ran`, which the worker still holds.

        Those that view the input buffer may have changed: the parent writes there.
        """
        buffer = range(self.memory.address, self.memory.address + self.memory.n_bytes)
        source = self.memory.source(ran.spans)
        for output in (tensor for call in ran.outputs for tensor in call):
            if not output.described or output.described["address"] in buffer:
                continue
            if not same_bytes(read_tensor(source, output.described).data, output.data):
                raise WorkerFailure("incorrect", "a call overwrites the output of the call before", "output_reused")

    def release(self, timeout_s: float) -> None:
        """Have the reference's worker give back the memory of what it has drawn and computed."""
        self.memory.close()
        self.worker.call({"do": "release"}, "done", timeout_s)

    def close(self) -> None:
        self.worker.close()
        self.memory.close()


def _same_outputs(call: list[Tensor], other: list[Tensor]) -> bool:
    """Of runs whose outputs are alike in number, dtype and shape."""
    return all(same_bytes(a.data, b.data) for a, b in zip(call, other, strict=True))


@contextlib.contextmanager
def made_together(makers: Sequence[Callable[[], Arm]], order: Sequence[int] = ()) -> Iterator[list["Future[Arm]"]]:
    """Arms made side by side, closed at the end. In random order, unless one is given: those made later can be faster."""
    with ThreadPoolExecutor(len(makers)) as pool:
        making = {i: pool.submit(makers[i]) for i in order or random.sample(range(len(makers)), len(makers))}
        wait(making.values())
    try:
        yield [making[i] for i in range(len(makers))]
    finally:
        close_all([arm.result() for arm in making.values() if arm.exception() is None])


def close_all(arms: Sequence[Arm]) -> None:
    """End several workers at once: ending one that holds a GPU takes a tenth of a second, in the driver."""
    for arm in arms:
        arm.worker.kill()
    for arm in arms:
        arm.close()


def _read(source: Source, described: Any, wanted: Sequence[Tensor] | None) -> list[Tensor]:
    if not isinstance(described, list):
        raise forged()
    if wanted is not None and len(described) != len(wanted):
        raise WorkerFailure("incorrect", f"returned {len(described)} tensors instead of {len(wanted)}", "wrong_arity")
    return [
        read_tensor(source, description, None if wanted is None else wanted[i])
        for i, description in enumerate(described)
    ]
