"""One buffer of inputs that several workers map, as on a GPU: whoever changes it harms nobody else."""

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expert_tail.evaluator.arm import Arm, Ran
from expert_tail.evaluator.layout import Inputs, Layout
from expert_tail.evaluator.memory import DeviceBuffer, DeviceMemory
from expert_tail.evaluator.process import INPUT_MUTATED, Run, WorkerFailure
from expert_tail.evaluator.protocols import WINDOW_S, _round, _windows_s
from expert_tail.evaluator.rest import Rest
from expert_tail.evaluator.tensors import Tensor

BENCH: Any = SimpleNamespace(settings=SimpleNamespace(timeout_s=1.0), outputs=None)


class AtRest(Rest):
    """A device that does nothing else."""

    def _window_s(self, n_flushes: int) -> float:
        return 1e-4 * n_flushes

    def _fence_s(self) -> float:
        return 0.0


class Disturbed(AtRest):
    """One on which something else always runs, as soon as anything does that was measured at rest."""

    def is_disturbed(self, seconds: float) -> bool:
        self.windows_s = [*getattr(self, "windows_s", []), seconds]
        return True


class Mapped(DeviceMemory):
    """The same without a device."""

    def outputs(self, spans: Any) -> Any:
        return None


@pytest.fixture
def buffer() -> DeviceBuffer:
    made = DeviceBuffer(torch.device("cpu"))
    made.rest = AtRest(made.device)
    made.rest.calibrate()
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
    done = _round(baseline, candidates, inputs, BENCH, checks_each=False)
    assert not done.is_intact
    assert {failure.reason for failure in done.failed.values()} <= {INPUT_MUTATED}  # nobody is called wrong
    done = _round(baseline, candidates, inputs, BENCH, checks_each=True)
    assert done.is_intact
    assert set(done.failed) == {0}
    assert set(done.ran) == {None, 1}


def test_a_baseline_that_fails_with_other_inputs_is_not_to_blame(buffer: DeviceBuffer, inputs: Inputs) -> None:
    baseline, candidates = arm(buffer, sees(inputs)), {0: arm(buffer, changes)}
    reasons = set()
    for _ in range(20):  # the order is random
        try:
            _round(baseline, candidates, inputs, BENCH, checks_each=False)
        except WorkerFailure as failure:
            reasons.add(failure.reason)
    assert reasons == {INPUT_MUTATED}
    done = _round(baseline, candidates, inputs, BENCH, checks_each=True)
    assert done.failed[0].reason == "input_mutated"


@pytest.mark.parametrize("n_candidates", [1, 4])
def test_a_round_on_a_device_that_is_disturbed_ends(buffer: DeviceBuffer, inputs: Inputs, n_candidates: int) -> None:
    buffer.rest = rest = Disturbed(buffer.device)
    candidates = {i: arm(buffer, lambda view: None) for i in range(n_candidates)}
    done = _round(arm(buffer, lambda view: None), candidates, inputs, BENCH, checks_each=False)
    assert done.is_disturbed
    assert not done.ran
    assert not done.failed
    assert len(rest.windows_s) == 1  # before the first, whoever that is
    done = _round(arm(buffer, lambda view: None), candidates, inputs, BENCH, checks_each=False, is_timed=False)
    assert not done.is_disturbed
    assert len(done.ran) == 1 + n_candidates


def test_when_it_is_looked_whether_the_device_is_at_rest() -> None:
    order = [3, None, 0, 1, 2]
    second = set()
    for _ in range(200):
        windows_s = _windows_s(order)
        assert windows_s[3] == WINDOW_S
        (other,) = windows_s.keys() - {3}
        second.add(other)
    assert second == {None, 0, 1, 2}
    alone = [_windows_s([None, 0]) for _ in range(200)]
    assert all(min(windows_s[None], windows_s[0]) > WINDOW_S for windows_s in alone)
    assert len({windows_s[0] for windows_s in alone}) == 200  # none can be foreseen


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
