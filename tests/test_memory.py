"""One buffer of inputs that several workers map, as on a GPU: whoever changes it harms nobody else."""

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expert_tail.evaluator import memory
from expert_tail.evaluator.arm import Arm, Ran
from expert_tail.evaluator.layout import Inputs, Layout
from expert_tail.evaluator.memory import DeviceBuffer, DeviceMemory
from expert_tail.evaluator.process import INPUT_MUTATED, Run, WorkerFailure
from expert_tail.evaluator.protocols import _round
from expert_tail.evaluator.tensors import Tensor

BENCH: Any = SimpleNamespace(settings=SimpleNamespace(timeout_s=1.0), outputs=None)


class Mapped(DeviceMemory):
    """The same without a device, which is always at rest."""

    def _await_rest(self) -> None:
        pass

    def outputs(self, spans: Any) -> Any:
        return None


@pytest.fixture
def buffer(monkeypatch: pytest.MonkeyPatch) -> DeviceBuffer:
    monkeypatch.setattr(memory, "_flush", lambda device: None)
    made = DeviceBuffer(torch.device("cpu"))
    made.view = torch.zeros(8, dtype=torch.uint8)
    return made


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(1, torch.arange(8, dtype=torch.uint8))


def arm(buffer: DeviceBuffer, forward: Callable[[torch.Tensor], None]) -> Arm:
    """One whose model does `forward` with the buffer."""

    def run(command: bytes, timeout_s: float, outputs: Any) -> Run[Any]:
        forward(buffer.view)
        return Run(1.0, [[]], [], None)

    worker: Any = SimpleNamespace(run=run)
    return Arm(worker, Mapped(worker, buffer))


def sees(inputs: Inputs) -> Callable[[torch.Tensor], None]:
    """A model that fails unless it has its inputs."""

    def forward(view: torch.Tensor) -> None:
        if not torch.equal(view, inputs.packed):
            raise WorkerFailure("runtime_error", "other inputs")

    return forward


def changes(view: torch.Tensor) -> None:
    view += 1


def changes_and_fails(view: torch.Tensor) -> None:
    view += 1
    raise WorkerFailure("runtime_error", "its own")


def test_inputs_are_put_there_once(buffer: DeviceBuffer, inputs: Inputs) -> None:
    mapped = arm(buffer, lambda view: None).memory
    mapped.write(inputs)
    assert mapped.holds(inputs)
    buffer.view += 1
    mapped.write(inputs)  # they should be there
    assert not mapped.holds(inputs)
    mapped.write(inputs)
    assert mapped.holds(inputs)
    buffer.view += 1
    mapped.forget()
    mapped.write(inputs)
    assert mapped.holds(inputs)


def test_others_in_the_place_of_inputs_that_are_gone(buffer: DeviceBuffer) -> None:
    mapped = arm(buffer, lambda view: None).memory
    for value in range(20):  # new objects lie where old ones lay
        inputs = Inputs(1, torch.full((8,), value, dtype=torch.uint8))
        mapped.write(inputs)
        assert mapped.holds(inputs)
        del inputs
        gc.collect()


@pytest.mark.parametrize("forward", [changes, changes_and_fails])
def test_the_next_has_its_inputs_whatever_the_last_did(
    buffer: DeviceBuffer, inputs: Inputs, forward: Callable[[torch.Tensor], None]
) -> None:
    with pytest.raises(WorkerFailure):
        arm(buffer, forward).run(inputs, 1.0)
    assert isinstance(arm(buffer, sees(inputs)).run(inputs, 1.0), Ran)


@pytest.mark.parametrize("forward", [changes, changes_and_fails])
def test_a_round_with_other_inputs_tells_nothing(
    buffer: DeviceBuffer, inputs: Inputs, forward: Callable[[torch.Tensor], None]
) -> None:
    candidates = {0: arm(buffer, forward), 1: arm(buffer, lambda view: None)}
    baseline = arm(buffer, lambda view: None)
    _, failed, is_intact = _round(baseline, candidates, inputs, BENCH, checks_each=False)
    assert not is_intact
    assert {failure.reason for failure in failed.values()} <= {INPUT_MUTATED}  # nobody is called wrong
    ran, failed, is_intact = _round(baseline, candidates, inputs, BENCH, checks_each=True)
    assert is_intact
    assert set(failed) == {0}
    assert set(ran) == {None, 1}


def test_a_baseline_that_fails_with_other_inputs_is_not_to_blame(buffer: DeviceBuffer, inputs: Inputs) -> None:
    baseline, candidates = arm(buffer, sees(inputs)), {0: arm(buffer, changes)}
    reasons = set()
    for _ in range(20):  # the order is random
        try:
            _round(baseline, candidates, inputs, BENCH, checks_each=False)
        except WorkerFailure as failure:
            reasons.add(failure.reason)
    assert reasons == {INPUT_MUTATED}
    _, failed, _ = _round(baseline, candidates, inputs, BENCH, checks_each=True)
    assert failed[0].reason == "input_mutated"


def test_calls_are_drawn_one_by_one() -> None:
    """Large ones have no room together."""
    layout = Layout.of([Tensor("float32", torch.zeros(64)), 2], 3)
    drawn: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def calls() -> Any:
        for value in range(3):
            call = [Tensor("float32", torch.full((64,), float(value))), 2]
            drawn.append(weakref.ref(call[0]))
            alive.append(sum(tensor() is not None for tensor in drawn))
            yield call
            del call

    packed = Inputs.of(layout, calls(), 3, torch.device("cpu")).packed
    assert packed.view(torch.float32).view(3, 64)[:, 0].tolist() == [0, 1, 2]
    assert max(alive) <= 2
