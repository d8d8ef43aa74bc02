"""The roofline: its arithmetic by hand, its facts against autograd, and that nothing honest is ever below it."""

import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expert_tail.evaluator.ceilings import ceilings_of
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.hardware import hardware
from expert_tail.evaluator.roofline import (
    ARITHMETIC,
    SAFETY,
    Ceilings,
    Extent,
    is_beaten,
    new_values,
    roofline_s,
)
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.tasks import LEVEL1, SCALES, Task, load_suite
from expert_tail.tasks.work import Work, work_of, work_of_workload

LEVEL1_CPU = {task.task_id: task for task in load_suite("level1", "cpu")}
EVERY_TASK = pytest.mark.parametrize("task_id", LEVEL1_CPU)
SETTINGS = EvaluatorSettings(min_pairs=6, max_pairs=6)
FLAT = Ceilings(((1, 1e9),), 1e30)  # 1 GB/s, and arithmetic for nothing
ARITHMETIC_ONLY = Ceilings(((1, 1e30),), 1e9)


def extent(value: Any) -> Extent | None:
    return Extent.of(str(value.dtype).removeprefix("torch."), value.shape) if isinstance(value, torch.Tensor) else None


def reference(task_id: int) -> tuple[torch.nn.Module, Any]:
    """The model, and the function that draws its inputs."""
    namespace: dict[str, Any] = {}
    exec(LEVEL1_CPU[task_id].reference_source, namespace)
    return namespace["Model"](*namespace["get_init_inputs"]()), namespace["get_inputs"]


# Arithmetic


@pytest.mark.parametrize(
    ("task_id", "inputs", "outputs", "n_bytes", "n_macs"),
    [
        (21, [(128, 12288)], [(128, 12288)], 2 * 4 * 128 * 12288, 0),  # sigmoid
        (19, [(128, 12288)], [(128, 12288)], 4 * 128 * 12288, 0),  # ReLU may return positive inputs as they are
        (1, [(512, 512)] * 2, [(512, 512)], 3 * 4 * 512**2, 512**3),
        (3, [(32, 64, 128), (32, 128, 256)], [(32, 64, 256)], 4 * 32 * (64 * 128 + 128 * 256 + 64 * 256), 2**26),
        (9, [(1536, 32), (32, 1536)], [(1536, 1536)], 4 * (2 * 1536 * 32 + 1536**2), 1536**2 * 32),
        (12, [(512,), (512, 512)], [(512, 512)], 4 * (512 + 2 * 512**2), 0),  # scaled rows
        (15, [(512, 512)] * 2, [(512, 512)], 3 * 4 * 512**2 / 2, 512**3 / 6),  # triangular
        (16, [(1024, 256), (1024, 512)], [(256, 512)], 4 * (1024 * 768 + 256 * 512), 256 * 512 * 1024),
        (55, [(1, 64, 32, 64)], [(1, 128, 30, 62)], 4 * (64 * 32 * 64 + 128 * 30 * 62), 128 * 30 * 62 * 64),
        (57, [(1, 64, 64, 64)], [(1, 64, 66, 66)], 4 * 64 * (64**2 + 66**2), 64**3 * 64),
        (72, [(1, 32, 6, 12, 24)], [(1, 32, 12, 24, 48)], 4 * 32 * (1728 + 13824), 32 * 1728 * 8),  # four groups
        (47, [(8, 512, 511)], [(8, 1, 511)], 4 * (8 * 512 * 511 + 8 * 511), 0),
        (97, [(1, 8, 128, 256)] * 3, [(1, 8, 128, 256)], 4 * 4 * 8 * 128 * 256, 2 * 8 * 128 * 128 * 256),
    ],
)
def test_by_hand(
    task_id: int, inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], n_bytes: float, n_macs: float
) -> None:
    work = work_of(LEVEL1_CPU[task_id])
    sizes = [[Extent.of("float32", shape) for shape in shapes] for shapes in (inputs, outputs)]
    assert roofline_s(work, *sizes, FLAT) == pytest.approx(SAFETY * n_bytes / 1e9)
    assert roofline_s(work, *sizes, ARITHMETIC_ONLY) == pytest.approx(SAFETY * ARITHMETIC * 2 * n_macs / 1e9)


def test_the_longer_of_memory_and_arithmetic_counts() -> None:
    size = [Extent.of("float32", [1000])]
    both = Ceilings(((1, 1e9),), 1e9)
    assert roofline_s(Work((1.0,), 1.0, 1.0, 0.0), size, size, both) == pytest.approx(SAFETY * 8000 / 1e9)
    assert roofline_s(Work((1.0,), 1.0, 100.0, 0.0), size, size, both) == pytest.approx(
        SAFETY * ARITHMETIC * 200_000 / 1e9
    )


def test_numbers_that_are_no_tensors_are_not_read() -> None:
    size = Extent.of("float32", [2048, 1024])
    assert roofline_s(work_of(LEVEL1_CPU[5]), [size, None], [size], FLAT) == pytest.approx(
        SAFETY * 2 * size.bytes / 1e9
    )


def test_bandwidth_is_that_of_a_working_set_within_and_never_below_a_larger_ones() -> None:
    ceilings = Ceilings(((10, 5.0), (100, 9.0), (1000, 3.0), (10_000, 2.0)), 1.0)
    # Ten bytes are slow for what a call costs, so that the best of larger sets stands for them.
    assert [ceilings.bandwidth_at(n) for n in (1, 10, 99, 100, 999, 1000, 9999, 1e9)] == [9, 9, 9, 9, 9, 3, 3, 2]


def test_a_source_that_is_not_built_in_has_no_facts_whatever_its_id() -> None:
    task = LEVEL1_CPU[12]
    other = Task(task.task_id, task.name, task.level, task.reference_source + "\n")
    assert work_of(task) is not None
    assert work_of(other) is None
    output = [Extent.of("float32", [512, 512])]
    assert roofline_s(None, [Extent.of("float32", [10**9])], output, FLAT) == SAFETY * output[0].bytes / 1e9


@pytest.mark.parametrize("scale", SCALES)
def test_facts_are_shares_and_counts(scale: str) -> None:
    for workload in LEVEL1.values():
        work = work_of_workload(workload, scale)
        assert len(work.reads) == len(workload.inputs)
        assert all(0 < share <= 1 for share in work.reads)
        assert 0 <= work.writes <= 1
        assert work.macs_per_output >= 0 <= work.macs_per_input
        assert work.macs_per_output == 0 or work.macs_per_input == 0


# Facts


SELECTS = {
    41,
    42,
    49,
    51,
    52,
    53,
}  # every value must be looked at to know the largest; the gradient is one value's alone


@EVERY_TASK
def test_what_must_be_read_has_influence_and_what_must_be_written_changes(task_id: int) -> None:
    work = work_of(LEVEL1_CPU[task_id])
    assert work is not None
    torch.manual_seed(0)
    model, draw = reference(task_id)
    inputs = draw()
    leaves = [x for x in inputs if isinstance(x, torch.Tensor) and x.is_floating_point()]
    if task_id == 43:  # the same windows, all of whose values count
        layer = model.maxpool
        windows = (torch.ones(16, 1, 3, 3, 3), None, layer.stride, layer.padding, layer.dilation, 16)
        model = lambda x: torch.nn.functional.conv3d(x, *windows)  # noqa: E731
    for leaf in leaves:
        leaf.requires_grad_()
    first = model(*inputs)
    if task_id not in SELECTS:
        gradients = torch.autograd.grad(first, leaves, torch.randn_like(first))
        declared = [share for share, x in zip(work.reads, inputs, strict=True) if any(x is leaf for leaf in leaves)]
        for share, gradient in zip(declared, gradients, strict=True):
            # Some gradients cancel or vanish by rounding.
            assert (gradient != 0).double().mean() >= share * (1 - 1e-3)
    second = model(*draw())
    assert (first != second).double().mean() >= work.writes * (1 - 1e-2)  # some values come twice


def test_activations_that_may_return_their_input_need_not_write() -> None:
    free = {task_id for task_id in LEVEL1 if (work := work_of(LEVEL1_CPU[task_id])) and work.writes == 0}
    found = set()
    for task_id in range(19, 33):
        model, draw = reference(task_id)
        (x,) = draw()
        if torch.equal(model(x), x):
            found.add(task_id)
    assert found == free


# Ceilings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def ceilings(folder: Path) -> Ceilings:
    """As two threads get them that ask at the same time."""
    core = max(os.sched_getaffinity(0))
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: ceilings_of("cpu", core, hardware(torch.device("cpu")), folder), range(2))
    assert one is not None
    assert one == two
    return one


def test_ceilings_are_plausible_and_measured_once(
    ceilings: Ceilings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = (folder / "ceilings").glob("*.json")
    assert json.loads(file.read_text())["hardware"] == hardware(torch.device("cpu"))
    assert 1e9 < ceilings.bandwidth_at(1 << 30) <= ceilings.bandwidth_at(1 << 20) < 1e13
    assert 1e9 < ceilings.peak < 1e14
    monkeypatch.setattr("expert_tail.evaluator.ceilings._measured", lambda *_: pytest.fail("measured again"))
    assert ceilings_of("cpu", 0, hardware(torch.device("cpu")), folder) == ceilings


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", '{"bandwidth": [], "peak": 1}', '{"bandwidth": [[1, 1]], "peak": -1}']
)
def test_damaged_ceilings_count_as_none(damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ceilings").mkdir()
    good = Ceilings(((1, 2.0),), 3.0)
    asked = []
    monkeypatch.setattr("expert_tail.evaluator.ceilings._measured", lambda *given: asked.append(given) or good)
    assert ceilings_of("cpu", 0, "some hardware", tmp_path) == good
    (lock,) = (tmp_path / "ceilings").iterdir()
    lock.with_suffix(".json").write_text(damaged)
    assert ceilings_of("cpu", 0, "some hardware", tmp_path) == good
    assert len(asked) == 2


def test_ceilings_that_cannot_be_kept_are_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Ceilings(((1, 2.0),), 3.0)
    monkeypatch.setattr("expert_tail.evaluator.ceilings._measured", lambda *given: good)
    (tmp_path / "ceilings").write_text("a file in the place of the folder")
    assert ceilings_of("cpu", 0, "some hardware", tmp_path) == good
    assert "measured each time" in capsys.readouterr().err


def test_a_device_that_is_not_there_has_no_ceilings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ceilings_of("abacus", 0, "an abacus", tmp_path) is None
    assert "could not be measured" in capsys.readouterr().err


@EVERY_TASK
def test_the_reference_is_never_below_the_roofline(task_id: int, ceilings: Ceilings) -> None:
    model, draw = reference(task_id)
    inputs = draw()
    threads, seconds = torch.get_num_threads(), math.inf
    torch.set_num_threads(1)
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            output = model(*inputs)
            seconds = min(seconds, time.perf_counter() - start)
    torch.set_num_threads(threads)
    (out,) = [extent(output)]
    assert out is not None
    bound = roofline_s(work_of(LEVEL1_CPU[task_id]), [extent(x) for x in inputs], [out], ceilings)
    assert 0 < bound < seconds


# Verdicts


@pytest.mark.parametrize(
    ("roofline_ms", "kernel_ms", "baseline_ms", "beaten"),
    [
        (1.0, 0.9, 5.0, True),
        (1.0, 1.1, 5.0, False),
        (1.0, 0.5, 0.9, False),  # the reference refutes it
        (0.0, 0.5, 1.0, False),
        (1.0, None, None, False),
    ],
)
def test_beaten(roofline_ms: float, kernel_ms: float | None, baseline_ms: float | None, beaten: bool) -> None:
    assert is_beaten(roofline_ms, kernel_ms, baseline_ms) == beaten


def test_new_values() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    constant = np.array([7.0, 7.0, 7.0])
    assert new_values([2.5 * x], [2.5 * y], [x]) == [3]
    assert new_values([x[::-1]], [y[::-1]], [x]) == [0]  # a view of the input
    assert new_values([constant], [constant], [x]) == [0]  # kept ready
    assert new_values([np.repeat(x.sum(), 3) + 0.5], [np.repeat(y.sum(), 3)], [x]) == [1]  # expanded
    assert new_values([2.5 * x, x], [2.5 * y, y], [x]) == [3, 0]


Forge = Callable[[float], None]


@pytest.fixture
def forge(folder: Path, ceilings: Ceilings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forge:
    """Write a file of ceilings that says that memory moves no faster than so many bytes/s: what is faster is impossible."""
    (real,) = (folder / "ceilings").glob("*.json")
    monkeypatch.setenv("EXPERT_TAIL_CACHE", str(tmp_path))
    forged = tmp_path / "ceilings" / real.name
    forged.parent.mkdir()
    return lambda rate: forged.write_text(json.dumps({"bandwidth": [[1, rate]], "peak": 1e15})) and None


def evaluate(task: Task, *forwards: str) -> list[Evaluation]:
    head, _, tail = task.reference_source.replace("class Model(", "class ModelNew(").rpartition("        return ")
    rest = tail.partition("\n")[2]
    with Evaluator(SETTINGS) as evaluator:
        return evaluator.evaluate([Candidate(task, f"{head}        return {f}\n{rest}") for f in forwards])


def test_impossible_times_are_rejected(forge: Forge) -> None:
    task, n_bytes = LEVEL1_CPU[12], 4 * (512 + 2 * 512**2)
    forge(1e15)
    same, scaled = evaluate(task, "torch.diag(A) @ B", "A[:, None] * B")
    assert (same.status, scaled.status) == ("correct", "correct")
    assert scaled.roofline_ms == pytest.approx(1e3 * SAFETY * n_bytes / 1e15)

    least_ms = (scaled.kernel_ms * scaled.baseline_ms) ** 0.5  # as far from both, whatever else the machine does
    forge(1e3 * SAFETY * n_bytes / least_ms)
    scaled, wrong = evaluate(task, "A[:, None] * B + 0", "A * B")
    assert (scaled.status, scaled.reason) == ("rejected", "faster_than_roofline")
    assert (scaled.speedup, scaled.trials) == (0, 0)
    assert "at the very least" in scaled.error
    assert wrong.status == "incorrect"
    assert [scaled.roofline_ms, wrong.roofline_ms] == pytest.approx([least_ms] * 2)

    forge(SAFETY * n_bytes)  # one second a call: the reference itself refutes it
    (again,) = evaluate(task, "A[:, None] * B + 0 + 0")
    assert (again.status, again.roofline_ms) == ("correct", None)


def custom(forward: str) -> Task:
    return Task(
        7,
        "7_custom",
        1,
        "import torch\nimport torch.nn as nn\n\n\nclass Model(nn.Module):\n    def forward(self, x):\n"
        f"        return {forward}\n\n\ndef get_inputs():\n    return [torch.rand(700, 1000)]\n\n\n"
        "def get_init_inputs():\n    return []\n",
    )


@pytest.mark.slow
def test_views_are_possible_and_new_values_are_not(forge: Forge) -> None:
    slowly = "x.double().sin().sin().sin().sin().float() * 0 + {}"  # the reference takes its time, so that it refutes nothing
    forge(1e15)
    (timed,) = evaluate(custom(slowly.format("2.5 * x")), "x * 2.5")
    assert timed.speedup > 2
    between_ms = (timed.kernel_ms * timed.baseline_ms) ** 0.5
    forge(1e3 * SAFETY * 4 * 700 * 1000 / between_ms)

    (view,) = evaluate(custom(slowly.format("x.flip(0).flip(0)")), "x")
    assert (view.status, view.roofline_ms) == ("correct", None)
    (expanded,) = evaluate(custom(slowly.format("x.mean(0)")), "x.mean(0).expand(700, 1000)")
    assert expanded.status == "correct", expanded.error
    (doubled,) = evaluate(custom(slowly.format("2.5 * x")), "2.5 * x")
    assert (doubled.status, doubled.reason) == ("rejected", "faster_than_roofline")


def test_honest_ceilings_let_a_fast_candidate_pass(
    ceilings: Ceilings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPERT_TAIL_CACHE", str(folder))
    (scaled,) = evaluate(LEVEL1_CPU[12], "A[:, None] * B")
    assert scaled.status == "correct"
    assert scaled.roofline_ms is not None
    assert 0 < scaled.roofline_ms < scaled.kernel_ms < scaled.baseline_ms
