"""One buffer of inputs that several workers map, as on a GPU: whoever changes it harms nobody else."""

import gc
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expert_tail.evaluator import protocols
from expert_tail.evaluator.arm import Arm, Ran
from expert_tail.evaluator.layout import Inputs, Layout
from expert_tail.evaluator.memory import DeviceBuffer, DeviceMemory
from expert_tail.evaluator.process import INPUT_MUTATED, Run, WorkerFailure
from expert_tail.evaluator.protocols import MAX_DISTURBED, WINDOW_S, _round, rounds
from expert_tail.evaluator.rest import Rest
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.tensors import Tensor
from expert_tail.evaluator.timing import Speedup

BENCH: Any = SimpleNamespace(settings=SimpleNamespace(timeout_s=1.0), outputs=None, wake=lambda: None)


class AtRest(Rest):
    """A device that does nothing else."""

    def _window_s(self, n_flushes: int) -> float:
        return 1e-4 * n_flushes

    def _fence_s(self) -> float:
        return 0.0


class Restless(AtRest):
    """One that is found disturbed at some of the looks before runs, and then settles."""

    def __init__(self, looks: Callable[[int], bool]) -> None:
        super().__init__(torch.device("cpu"))
        self.looks, self.n = looks, 0

    def is_disturbed(self, seconds: float) -> bool:
        self.n += 1
        return self.looks(self.n - 1)

    def settles(self) -> bool:
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
    for value in range(6):  # new objects lie where old ones lay
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
def test_a_round_ends_where_its_inputs_may_have_set_off_work(
    buffer: DeviceBuffer, inputs: Inputs, n_candidates: int
) -> None:
    buffer.rest = Restless(lambda look: look == 0)  # before the first run
    candidates = {i: arm(buffer, lambda view: None) for i in range(n_candidates)}
    done = _round(arm(buffer, lambda view: None), candidates, inputs, BENCH, checks_each=False)
    assert done.has_ended
    assert (done.n_looks, done.n_disturbed) == (1, 1)
    assert not done.ran
    assert not done.failed
    done = _round(arm(buffer, lambda view: None), candidates, inputs, BENCH, checks_each=False, is_timed=False)
    assert (done.has_ended, done.n_looks) == (False, 0)
    assert len(done.ran) == 1 + n_candidates


def in_order(monkeypatch: pytest.MonkeyPatch, *order: int | None) -> None:
    monkeypatch.setattr(protocols.random, "sample", lambda population, k: list(order))


def test_nothing_comes_between_a_look_and_the_clock(
    buffer: DeviceBuffer, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What began there would be done before the run, and be neither seen nor timed."""
    said: list[str] = []

    def says(word: str, answer: bool | None = None) -> Callable[..., bool | None]:
        return lambda *_: (said.append(word), answer)[1]

    for name, answer in (("wait", None), ("flush", None), ("is_disturbed", False)):
        monkeypatch.setattr(buffer.rest, name, says(name, answer))
    monkeypatch.setattr(BENCH, "wake", says("wake"))
    in_order(monkeypatch, 0, None)
    arms = {0: arm(buffer, says("run"))}
    _round(arm(buffer, says("run")), arms, inputs, BENCH, checks_each=False)
    first, second = " ".join(said).split(" run")[:2]
    assert first.endswith("flush wait is_disturbed wake is_disturbed")
    assert second.endswith("flush wait is_disturbed")


def test_who_ran_already_cannot_have_a_round_left_out(
    buffer: DeviceBuffer, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer.rest = Restless(lambda look: look == 2)  # before the second run
    in_order(monkeypatch, 0, None)
    done = _round(arm(buffer, lambda view: None), {0: arm(buffer, lambda view: None)}, inputs, BENCH, checks_each=False)
    assert not done.has_ended
    assert done.n_disturbed == 1
    assert set(done.ran) == {None, 0}


def test_who_has_not_run_gains_nothing_from_work_that_ends_before_it_does(
    buffer: DeviceBuffer, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer.rest = Restless(lambda look: look == 2)
    in_order(monkeypatch, None, 0)
    done = _round(arm(buffer, lambda view: None), {0: arm(buffer, lambda view: None)}, inputs, BENCH, checks_each=False)
    assert done.has_ended
    assert set(done.ran) == {None}


def test_a_device_that_is_disturbed_again_and_again_is_not_waited_for(
    buffer: DeviceBuffer, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer.rest = Restless(lambda look: look > 1)
    in_order(monkeypatch, 0, None)
    done = _round(arm(buffer, lambda view: None), {0: arm(buffer, lambda view: None)}, inputs, BENCH, checks_each=False)
    assert done.has_ended
    assert done.n_disturbed == MAX_DISTURBED + 1
    monkeypatch.setattr(buffer.rest, "settles", lambda: False)
    with pytest.raises(WorkerFailure, match="other work runs") as caught:
        _round(arm(buffer, lambda view: None), {0: arm(buffer, lambda view: None)}, inputs, BENCH, checks_each=False)
    assert caught.value.reason == "busy_device"


def bench_of_rounds(inputs: Inputs) -> Any:
    """What `rounds` asks of a bench, for arms without outputs."""
    settings = EvaluatorSettings(device="cpu", min_pairs=6, max_pairs=24, precision=1e-9)
    return SimpleNamespace(
        settings=settings,
        outputs=None,
        settle=lambda: None,
        wake=lambda: None,
        warm_ups=lambda: [],
        new_trials=lambda count: 0,
        trial=lambda index: Inputs(1, inputs.packed.clone()),
        expected=lambda index, ran: [],
        is_void=lambda index, expected: False,
        seconds=lambda ran: random.uniform(1.0, 2.0),
    )


def timed(buffer: DeviceBuffer, inputs: Inputs, forward: Callable[[torch.Tensor], None] = lambda view: None) -> Any:
    return rounds(arm(buffer, lambda view: None), {0: arm(buffer, forward)}, bench_of_rounds(inputs))[0]


def test_a_device_that_is_seldom_disturbed_is_timed_on(buffer: DeviceBuffer, inputs: Inputs) -> None:
    buffer.rest = Restless(lambda look: look in (4, 5, 30))
    found = timed(buffer, inputs)
    assert isinstance(found, Speedup)
    assert found.trials == 24


def test_one_that_is_often_disturbed_is_not(buffer: DeviceBuffer, inputs: Inputs) -> None:
    buffer.rest = Restless(lambda look: look % 5 == 0)
    found = timed(buffer, inputs)
    assert isinstance(found, WorkerFailure)
    assert (found.status, found.reason) == ("rejected", "busy_device")


def test_who_fails_in_a_round_that_does_not_count_has_failed(
    buffer: DeviceBuffer, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the device is disturbed by its end."""
    in_order(monkeypatch, 0, None)
    has_failed = []

    def fails(view: torch.Tensor) -> None:
        if buffer.rest.n > 20:  # type: ignore[attr-defined]
            has_failed.append(True)
            raise WorkerFailure("timeout", "no answer")

    buffer.rest = Restless(lambda look: bool(has_failed))
    found = timed(buffer, inputs, fails)
    assert isinstance(found, WorkerFailure)
    assert found.status == "timeout"
    assert len(has_failed) == 1


def test_when_it_is_looked_whether_the_device_is_at_rest(
    buffer: DeviceBuffer, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[Arm, float]] = []
    monkeypatch.setattr(Arm, "look", lambda arm, seconds: looks.append((arm, seconds)))

    def looked_at(n_candidates: int) -> tuple[list[int | None], list[float]]:
        arms: dict[int | None, Arm] = {i: arm(buffer, lambda view: None) for i in (None, *range(n_candidates))}
        looks.clear()
        in_order(monkeypatch, *arms)
        done = _round(arms.pop(None), arms, inputs, BENCH, checks_each=False)  # type: ignore[arg-type]
        assert done.n_looks == len(looks) == 3
        keys = {id(one): key for key, one in arms.items()}
        return [keys.get(id(one)) for one, _ in looks], [seconds for _, seconds in looks]

    groups = [looked_at(4) for _ in range(200)]
    assert {tuple(keys) for keys, _ in groups} == {(None, None, other) for other in range(4)}
    assert all(seconds == [WINDOW_S] * 3 for _, seconds in groups)
    alone = [looked_at(1) for _ in range(200)]
    assert {tuple(keys) for keys, _ in alone} == {(None, None, 0)}
    lengths = [length for _, seconds in alone for length in seconds]
    assert min(lengths) > WINDOW_S
    assert len(set(lengths)) == 600  # none can be foreseen


def test_inputs_lie_where_the_layout_says() -> None:
    specs = [Tensor("float32", torch.zeros(3, 5)), 2, Tensor("bool", torch.zeros(7, dtype=torch.uint8))]
    layout = Layout.of([*specs, Tensor("int64", torch.zeros(0, 4, dtype=torch.int64))], 2)
    inputs = Inputs.blank(layout, 2, torch.device("cpu"))
    first, second = inputs.of_call(layout, 0), inputs.of_call(layout, 1)
    assert [(x.dtype, x.shape) for x in first] == [("float32", [3, 5]), ("bool", [7]), ("int64", [0, 4])]
    assert not inputs.packed.any()
    second[0].data.copy_(torch.arange(15.0).view(3, 5))
    start = layout.call_bytes
    assert inputs.packed[start : start + 60].view(torch.float32).tolist() == list(range(15))
    assert not first[0].data.any()
    second[0].data.zero_()
    assert not inputs.packed.any()
