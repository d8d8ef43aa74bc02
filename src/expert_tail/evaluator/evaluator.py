"""The evaluator: candidates in, verdicts and timings out; each distinct candidate measured once, ever."""

import contextlib
import hashlib
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from expert_tail.code_digest import code_digest
from expert_tail.errors import UserError
from expert_tail.evaluator.arm import Arm
from expert_tail.evaluator.bench import Bench, Output, check
from expert_tail.evaluator.cache import Cache, cache_folder, key
from expert_tail.evaluator.correctness import Expected
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.hardware import hardware
from expert_tail.evaluator.process import ForkServer, WorkerFailure
from expert_tail.evaluator.sandbox import MIN_LAYERS, missing
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.tensors import Tensor
from expert_tail.evaluator.timing import Speedup, paired_speedup
from expert_tail.progress import log
from expert_tail.tasks import Task


@dataclass(frozen=True)
class Candidate:
    """A complete module that defines `ModelNew`, for a task."""

    task: Task
    source: str


class Evaluator:
    """Evaluates candidates in isolated processes. A context manager: workers start on entry and end on exit."""

    def __init__(self, settings: EvaluatorSettings, cache: Path | None = None) -> None:
        self.settings = settings
        self.device = "cpu"
        self.hardware = hardware(self.device)
        self.digest = hashlib.sha256(
            f"{code_digest('evaluator', without=['tasks'])} {settings.flags('evaluator')}".encode()
        ).hexdigest()[:16]
        self.cache = Cache(cache or cache_folder())
        self.core = max(os.sched_getaffinity(0))  # the last one: interrupts prefer the first

    def __enter__(self) -> "Evaluator":
        self._stack = contextlib.ExitStack()
        self._server = self._stack.enter_context(ForkServer(self.settings.sandbox != "off"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def evaluate(
        self, candidates: Sequence[Candidate], advance: Callable[[int], None] = lambda done: None
    ) -> list[Evaluation]:
        """Evaluate in the given order of results; `advance(n)` is called as n more candidates are settled.

        A candidate that was ever measured (same source, task, evaluator, protocol and hardware) comes from the cache.
        Each new result is in the cache before the next candidate is started. Nothing a candidate does raises here.
        """
        wanted: dict[str, list[int]] = defaultdict(list)
        for index, candidate in enumerate(candidates):
            wanted[self._key(candidate)].append(index)
        results: dict[str, Evaluation] = {}
        waiting: dict[Task, list[str]] = defaultdict(list)
        for name, indices in wanted.items():
            if found := self.cache.get(name):
                results[name] = found
                advance(len(indices))
            else:
                waiting[candidates[indices[0]].task].append(name)
        if waiting:
            self._require_sandbox()
            with _alone(self.device), self._elsewhere():
                for task, names in waiting.items():
                    for name, evaluation in self._evaluate_task(
                        task, {n: candidates[wanted[n][0]].source for n in names}
                    ):
                        self.cache.put(name, evaluation)
                        results[name] = evaluation
                        advance(len(wanted[name]))
        return [results[self._key(candidate)] for candidate in candidates]

    def _require_sandbox(self) -> None:
        lacking = missing(self._server.sandbox)
        if self.settings.sandbox == "required" and lacking:
            raise UserError(
                f"evaluator.sandbox is required, but this machine has no {' and no '.join(lacking)} (it has "
                f"{self._server.sandbox}): use a Linux kernel of 5.13 or later with {' and '.join(MIN_LAYERS)}, or set "
                "evaluator.sandbox to auto"
            )

    def _key(self, candidate: Candidate) -> str:
        return key(
            candidate=hashlib.sha256(candidate.source.encode("utf-8", "surrogatepass")).hexdigest(),
            task=candidate.task.source_sha256,
            evaluator=self.digest,
            hardware=self.hardware,
        )

    def _evaluate_task(self, task: Task, sources: dict[str, str]) -> Iterator[tuple[str, Evaluation]]:
        try:
            bench = Bench(self._server, task, self.settings, self.core)
        except WorkerFailure as failure:
            error = f"the reference of task {task.task_id} ({task.name}) fails itself: {failure.error}"
            log(f"{error}; correct the task's source")
            for name in sources:
                yield name, self._verdict(failure.status, reason="reference_failed", error=error)
            return
        try:
            for name, source in sources.items():
                yield name, self._evaluate_one(bench, source)
        finally:
            bench.close()

    def _evaluate_one(self, bench: Bench, source: str) -> Evaluation:
        try:
            with bench.prepared(source, "ModelNew") as candidate:
                speedup = (self._paired if self.settings.protocol == "paired" else self._paper)(candidate, bench)
        except WorkerFailure as failure:
            return self._verdict(failure.status, reason=failure.reason, error=failure.error)
        return self._verdict(
            "correct",
            speedup=speedup.median,
            speedup_low=speedup.low,
            speedup_high=speedup.high,
            kernel_ms=speedup.kernel_ms,
            baseline_ms=speedup.baseline_ms,
            trials=speedup.trials,
        )

    def _verdict(self, status: str, **columns: str | float | None) -> Evaluation:
        return Evaluation(status, self.digest, self.hardware, sandbox=self._server.sandbox, **columns)  # type: ignore[arg-type]

    def _paired(self, candidate: Arm, bench: Bench) -> Speedup:
        """Baseline and candidate in turn, in random order, on fresh inputs; until the interval is tight."""
        settings, start = self.settings, time.monotonic()
        seconds: dict[Arm, list[float]] = {bench.baseline: [], candidate: []}
        for pair in range(settings.max_pairs):
            index = settings.correctness_trials + pair
            inputs = bench.inputs(index)
            outputs: dict[Arm, list[Tensor]] = {}
            for arm in random.sample([bench.baseline, candidate], 2):
                elapsed, outputs[arm] = arm.run(inputs, settings.timeout_s, wanted=bench.outputs)
                seconds[arm].append(elapsed)
            # What a timed call must return: the baseline's own output, within the errors of both arms.
            baseline = zip(outputs[bench.baseline], bench.errors(index), strict=True)
            wanted = [Output(tensor, Expected(tensor.values(), 2 * error)) for tensor, error in baseline]
            check(outputs[candidate], wanted)
            if pair + 1 >= settings.min_pairs:
                speedup = paired_speedup(seconds[bench.baseline], seconds[candidate])
                if speedup.is_tight(settings.precision) or time.monotonic() - start > settings.timing_budget_s:
                    break
        return paired_speedup(seconds[bench.baseline], seconds[candidate])

    def _paper(self, candidate: Arm, bench: Bench) -> Speedup:
        """The published protocol: a few unpaired trials on one input, and the ratio of means, which has no interval."""
        inputs, n = bench.inputs(0), self.settings.paper_trials
        means = []
        for arm in (bench.baseline, candidate):
            runs = [arm.run(inputs, self.settings.timeout_s, wanted=bench.outputs) for _ in range(n)]
            for _, outputs in runs:
                check(outputs, bench.cases[0].expected)
            means.append(sum(seconds for seconds, _ in runs) / n)
        return Speedup(means[0] / means[1], None, None, 1e3 * means[1], 1e3 * means[0], n)

    @contextlib.contextmanager
    def _elsewhere(self) -> Iterator[None]:
        """Keep this thread off the core that workers are timed on."""
        before = os.sched_getaffinity(0)
        if len(before) > 1:
            os.sched_setaffinity(0, before - {self.core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _alone(device: str) -> Iterator[None]:
    """One process at a time measures on a device of this machine."""
    lock = FileLock(Path(tempfile.gettempdir()) / f"expert-tail-{os.getuid()}-{device}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"waiting for another evaluation on this machine's {device}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
