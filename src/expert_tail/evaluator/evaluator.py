"""The evaluator: candidates in, verdicts and timings out; each distinct candidate measured once, ever."""

import contextlib
import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from expert_tail.code_digest import code_digest
from expert_tail.errors import UserError
from expert_tail.evaluator.alone import NO_CORE, alone_on, core_to_share
from expert_tail.evaluator.arm import Arm, made_together
from expert_tail.evaluator.bench import Bench
from expert_tail.evaluator.build import Builds, needs_build
from expert_tail.evaluator.cache import BUILDS, Cache, cache_folder, key
from expert_tail.evaluator.ceilings import ceilings_of
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.hardware import choose_device, hardware
from expert_tail.evaluator.physics import with_roofline
from expert_tail.evaluator.process import BUSY_DEVICE, INPUT_MUTATED, WorkerFailure
from expert_tail.evaluator.protocols import (
    FAILURES,
    Outcome,
    as_failure,
    claims_to_be_faster,
    paired,
    published,
    replicated,
)
from expert_tail.evaluator.sandbox import MIN_LAYERS, missing
from expert_tail.evaluator.server import ForkServer, limits_of
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.timing import Speedup
from expert_tail.progress import log
from expert_tail.tasks import Task
from expert_tail.tasks.work import work_of

REFERENCE_FAILED = "reference_failed"
# Candidates made ready side by side, and timed in the same rounds. On a GPU drawing inputs takes longer than most runs.
GROUP = {"cpu": 6, "cuda": 24}
CONTEXT_BYTES = 1 << 30  # of a GPU: what a process takes that drives it
MEMORY_EACH = 4 << 30  # of a GPU, free: it has room for as many candidates at a time


@dataclass(frozen=True)
class Candidate:
    """A complete module that defines `ModelNew`, for a task. Each `repeat` of it is measured anew, and cached on its own."""

    task: Task
    source: str
    repeat: int = 0


class Evaluator:
    """Evaluates candidates in isolated processes. A context manager: workers start on entry and end on exit."""

    def __init__(self, settings: EvaluatorSettings, cache: Path | None = None) -> None:
        self.settings = settings
        self.device = choose_device(settings.device)
        self.hardware = hardware(self.device)
        self.digest = hashlib.sha256(
            f"{code_digest('evaluator', without=['tasks'])} {settings.of_verdicts()}".encode()
        ).hexdigest()[:16]
        self.cache = Cache(cache or cache_folder())
        self._builds = Builds(self.cache.folder / BUILDS, self.hardware)
        # Workers of a CPU live on the last core, since interrupts prefer the first; those that drive a GPU anywhere.
        self.core = max(os.sched_getaffinity(0)) if self.device.type == "cpu" else NO_CORE
        self._shared_core = NO_CORE  # with this thread, while workers of a GPU are timed
        self.group = GROUP[self.device.type]
        if self.device.type == "cuda":
            self.group = max(1, min(self.group, torch.cuda.mem_get_info(self.device)[0] // MEMORY_EACH))
        self.at_once = settings.paper_threads if settings.protocol == "paper" else 1
        # Each group's baseline is as new as its candidates, unless there is no room for it: then the bench's will do.
        self._new_baselines = settings.protocol == "paired"

    def __enter__(self) -> "Evaluator":
        self._stack = contextlib.ExitStack()
        self._servers: list[ForkServer] = []
        self._start_servers(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def evaluate(
        self, candidates: Sequence[Candidate], advance: Callable[[int], None] = lambda done: None
    ) -> list[Evaluation]:
        """Evaluate in the given order of results; `advance(n)` is called as n more candidates are settled.

        A candidate that was ever measured (same source, task, evaluator, protocol and hardware) comes from the cache.
        Each new result is in the cache before the next candidates are timed. Nothing a candidate does raises here. Under
        the protocol `paper`, `paper_threads` candidates of a task run at the same time, as it was published: all on the
        one core (or GPU) that a single one would run on, so that they disturb each other's timings.
        """
        wanted: dict[str, list[int]] = defaultdict(list)
        for index, candidate in enumerate(candidates):
            wanted[self._key(candidate)].append(index)
        results: dict[str, Evaluation] = {}
        measured = 0
        waiting: dict[Task, list[str]] = defaultdict(list)
        for name, indices in wanted.items():
            if found := self.cache.get(name):
                results[name] = found
                advance(len(indices))
            else:
                waiting[candidates[indices[0]].task].append(name)
        if waiting:
            self._require_sandbox()
            with alone_on(self.device), self._on_cores(), self._nothing_left_over():
                self._ceilings = ceilings_of(str(self.device), self.core, self.hardware)
                upcoming = deque(waiting.items())
                while upcoming:
                    task, names = upcoming.popleft()
                    for name in names:
                        if found := self.cache.late(name):  # another process has measured it since
                            results[name] = found
                            advance(len(wanted[name]))
                    sources = {n: candidates[wanted[n][0]].source for n in names if n not in results}
                    following = [candidates[wanted[n][0]].source for n in upcoming[0][1]] if upcoming else []
                    for name, evaluation in self._evaluate_task(task, sources, following) if sources else ():
                        if evaluation.reason not in (REFERENCE_FAILED, BUSY_DEVICE):  # which may be the machine's fault
                            self.cache.put(name, evaluation)
                        results[name] = evaluation
                        measured += 1
                        advance(len(wanted[name]))
        self.cache.note(asked=len(candidates), measured=measured)
        return [results[self._key(candidate)] for candidate in candidates]

    def _require_sandbox(self) -> None:
        lacking = missing(self._servers[0].sandbox)
        if self.settings.sandbox == "required" and lacking:
            raise UserError(
                f"evaluator.sandbox is required, but this machine has no {' and no '.join(lacking)} (it has "
                f"{self._servers[0].sandbox}): use a Linux kernel of 5.13 or later with {' and '.join(MIN_LAYERS)}, or set "
                "evaluator.sandbox to auto"
            )

    def _key(self, candidate: Candidate) -> str:
        return key(
            candidate=hashlib.sha256(candidate.source.encode("utf-8", "surrogatepass")).hexdigest(),
            task=candidate.task.source_sha256,
            work=repr(work_of(candidate.task)),
            evaluator=self.digest,
            hardware=self.hardware,
            repeat=str(candidate.repeat),
        )

    def _evaluate_task(
        self, task: Task, sources: Mapping[str, str], following: Sequence[str]
    ) -> Iterator[tuple[str, Evaluation]]:
        """`following`: sources of the next task, whose processes may get ready meanwhile."""
        left, advice = dict(sources), "correct the task's source"
        try:
            with contextlib.ExitStack() as stack:
                benches = self._benches(task, list(sources.values()), stack)
                advice = "run again; only what was finished is kept"
                with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # compilers take every core, no timing
                    for built in [pool.submit(benches[0].build, s) for s in sources.values() if needs_build(s)]:
                        built.result()  # what raises is this machine's fault, and no verdict
                waiting = list(sources.items())
                n = len(benches) if benches[0].room.is_frugal else max(self.at_once, self.group)
                for start in range(0, len(waiting), n):
                    group, later = waiting[start : start + n], waiting[start + n : start + 2 * n]
                    sources_ahead = [source for _, source in later] or following
                    ahead = partial(self._prepare_beside, benches, len(group), sources_ahead, bool(later))
                    for name, evaluation in self._evaluate_group(task, benches, group, ahead):
                        del left[name]
                        yield name, evaluation
        except FAILURES as error:
            failure = as_failure(error)
            message, reason = f"the reference of task {task.task_id} ({task.name}) fails itself", REFERENCE_FAILED
            if failure.reason == BUSY_DEVICE:
                message, reason = f"task {task.task_id} ({task.name}) cannot be evaluated now", BUSY_DEVICE
                advice = "run again"
            log(f"{message}: {failure.error}; {advice}")
            for name in left:
                yield name, self._verdict(failure.status, reason=reason, error=f"{message}: {failure.error}")

    def _benches(self, task: Task, sources: Sequence[str], stack: contextlib.ExitStack) -> list[Bench]:
        """Benches for evaluations at the same time, which share nothing but the core: each has a fork server of its own.

        Where a device has no room for what makes them fast, they do without; and for all of them, there is one. Raises
        like `Bench`.
        """
        n = min(self.at_once, len(sources))
        self._start_servers(n)
        self._prepare(n, sources, has_bench=False)
        for server in self._servers[: n if n > 1 else 0]:  # else one's start would disturb another's bench
            server.settle()

        def opened(n: int, **how: Any) -> list[Bench]:
            with contextlib.ExitStack() as opening:
                benches = []
                for server in self._servers[:n]:
                    bench = Bench(
                        server, self._builds, task, self.settings, self.device, self.core, self._shared_core, **how
                    )
                    benches.append(opening.enter_context(contextlib.closing(bench)))
                stack.enter_context(opening.pop_all())
                return benches

        try:
            return opened(n)
        except FAILURES as error:
            is_full = as_failure(error).status == "out_of_memory" or as_failure(error).reason == BUSY_DEVICE
            if self.device.type == "cpu" or not is_full:
                raise
        for server in self._servers:
            server.discard()
        try:
            return opened(n, is_frugal=True)
        except FAILURES as error:
            if n == 1 or as_failure(error).status != "out_of_memory":
                raise
        log(f"task {task.task_id} ({task.name}): {self.device} has no room for {n} at the same time: one at a time")
        return opened(1, is_frugal=True)

    def _prepare(self, n: int, sources: Sequence[str], has_bench: bool) -> None:
        """Start what the next group of `sources` needs on each of n servers, beside what a bench does if there is none yet."""
        settings, core, device = self.settings, self.core, self.device
        kinds = [limits_of(settings, core, device, writable=needs_build(source)) for source in sources[: self.group]]
        baselines = [limits_of(settings, core, device)] * (self._new_baselines + (not has_bench))
        reference = [] if has_bench else [limits_of(settings, core, device, is_reference=True)]
        for i, server in enumerate(self._servers[:n]):
            server.prepare([*kinds[i::n], *baselines, *reference])

    def _prepare_beside(
        self, benches: Sequence[Bench], n_candidates: int, sources: Sequence[str], has_bench: bool
    ) -> None:
        """The same while a group is proven, where that saves time and leaves room: on a GPU, whose driver starts one by one."""
        n_contexts = min(self.group, len(sources)) + 1 + 2 * (not has_bench)
        n_bytes = CONTEXT_BYTES * n_contexts + benches[0].bytes_of_outputs(n_candidates)
        is_slow = self.device.type == "cuda" and self.settings.protocol == "paired"
        if sources and is_slow and benches[0].room.is_left(n_bytes):
            self._prepare(1, sources, has_bench)

    @contextlib.contextmanager
    def _nothing_left_over(self) -> Iterator[None]:
        """End what was prepared and not wanted: it holds memory, of a GPU that the caller may have other uses for."""
        try:
            yield
        finally:
            for server in self._servers:
                server.discard()

    def _start_servers(self, n: int) -> None:
        while len(self._servers) < n:
            server = ForkServer(self.settings.sandbox != "off", self.device.index)
            self._servers.append(self._stack.enter_context(server))

    def _evaluate_group(
        self,
        task: Task,
        benches: list[Bench],
        group: list[tuple[str, str]],
        ahead: Callable[[], None] = lambda: None,
        may_retry: bool = True,
    ) -> Iterator[tuple[str, Evaluation]]:
        """Load some candidates at the same time, then run them; `ahead` is called in between.

        One that finds the device busy or full, or its inputs changed, is evaluated again by itself: it may be others' doing.
        """
        for bench in benches:
            bench.settle()
            bench.calibrate()
        suspects, is_short = [], False
        placed = [(source, benches[i % len(benches)]) for i, (_, source) in enumerate(group)]
        makers: list[Callable[[], Arm]] = [partial(bench.loaded, source, "ModelNew") for source, bench in placed]
        protocol = self._published if self.settings.protocol == "paper" else self._paired
        if self._new_baselines and not benches[0].room.is_frugal:
            makers.append(benches[0].new_baseline)
        with made_together(makers) as making:
            ahead()
            for i, evaluation in protocol(task, placed, making):
                if may_retry and self._is_suspect(evaluation):
                    suspects.append(group[i])
                    is_short = is_short or (evaluation.status != "rejected" and evaluation.reason != INPUT_MUTATED)
                else:
                    yield group[i][0], evaluation
        if is_short and self.device.type == "cuda":
            for bench in benches:
                bench.save_memory()
        for name, source in suspects:
            if needs_build(source):
                benches[0].build(source)  # its compilers may have found the machine busy
            yield from self._evaluate_group(task, benches, [(name, source)], may_retry=False)

    def _is_suspect(self, evaluation: Evaluation) -> bool:
        # On a CPU each has memory and inputs of its own.
        is_others = evaluation.status == "out_of_memory" or evaluation.reason == INPUT_MUTATED
        return evaluation.reason == BUSY_DEVICE or (is_others and self.device.type == "cuda")

    def _paired(
        self, task: Task, placed: Sequence[tuple[str, Bench]], making: Sequence["Future[Arm]"]
    ) -> Iterator[tuple[int, Evaluation]]:
        bench, n = placed[0][1], len(placed)
        left = set(range(n))
        try:
            for i, outcome in self._replicated(
                paired(making[:n], making[n] if len(making) > n else None, bench), placed
            ):
                evaluation = self._evaluation(task, bench, placed[i][0], outcome)
                left.remove(i)
                yield i, evaluation
        except FAILURES as error:  # the baseline's, or one candidate's that disturbed all
            failure = self._of_baseline(error)
            for i in left:
                yield i, self._evaluation(task, bench, placed[i][0], failure)

    def _replicated(
        self, outcomes: Iterator[tuple[int, Outcome]], placed: Sequence[tuple[str, Bench]]
    ) -> Iterator[tuple[int, Outcome]]:
        """Outcomes as they come; claims to be faster last, when they were made again."""
        claims: dict[int, Speedup] = {}
        for i, outcome in outcomes:
            if claims_to_be_faster(outcome) and self.settings.replicates > 1:
                claims[i] = outcome
            else:
                yield i, outcome
        yield from replicated(claims, {i: placed[i][0] for i in claims}, placed[0][1])

    def _of_baseline(self, error: Exception) -> WorkerFailure:
        """What candidates are told that were to be compared with a baseline that fails."""
        failure = as_failure(error)
        if failure.reason == INPUT_MUTATED and self.device.type == "cuda":  # it never did when it was alone
            return WorkerFailure("incorrect", "the inputs of the baseline were changed by another", INPUT_MUTATED)
        if failure.reason == BUSY_DEVICE:
            return failure
        status = "crash" if failure.status == "rejected" else failure.status
        return WorkerFailure(status, f"the baseline failed: {failure.error}", REFERENCE_FAILED)

    def _published(
        self, task: Task, placed: Sequence[tuple[str, Bench]], making: Sequence["Future[Arm]"]
    ) -> Iterator[tuple[int, Evaluation]]:
        """Candidates of different benches at the same time, those of one bench in turn."""

        def one(source: str, bench: Bench, making: "Future[Arm]") -> Evaluation:
            try:
                candidate = making.result()
            except FAILURES as error:
                return self._evaluation(task, bench, source, as_failure(error))
            try:
                return self._evaluation(task, bench, source, published(candidate, bench))
            except FAILURES as error:
                return self._evaluation(task, bench, source, self._of_baseline(error))

        with contextlib.ExitStack() as stack:
            # Their threads run where this one may.
            runners = {bench: stack.enter_context(ThreadPoolExecutor(1)) for _, bench in placed}
            running = [
                runners[bench].submit(one, source, bench, arm)
                for (source, bench), arm in zip(placed, making, strict=True)
            ]
            yield from ((i, future.result()) for i, future in enumerate(running))

    def _evaluation(self, task: Task, bench: Bench, source: str, outcome: Outcome) -> Evaluation:
        if isinstance(outcome, WorkerFailure):
            note = bench.build_note(source)
            message = f"{outcome.error}\nwhen it was compiled ahead: {note}" if note else outcome.error
            evaluation = self._verdict(outcome.status, reason=outcome.reason, error=message)
        else:
            evaluation = self._verdict(
                "correct",
                speedup=outcome.median,
                speedup_low=outcome.low,
                speedup_high=outcome.high,
                kernel_ms=outcome.kernel_ms,
                baseline_ms=outcome.baseline_ms,
                trials=outcome.trials,
            )
        return with_roofline(evaluation, task, bench, self._ceilings)

    def _verdict(self, status: str, **columns: str | float | None) -> Evaluation:
        return Evaluation(status, self.digest, self.hardware, sandbox=self._servers[0].sandbox, **columns)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _on_cores(self) -> Iterator[None]:
        """Keep this thread off the core that workers are timed on, so that it may spin. Several that spin would hold up
        each other: they go where they like, and sleep. Find a core that this thread shares with those that drive a GPU.

        PyTorch gets as many threads as there are cores left: more would spend most of their time waiting for each other.
        """
        before, n_threads = os.sched_getaffinity(0), torch.get_num_threads()
        others = before - {self.core} or before
        if self.core >= 0 and self.at_once == 1:
            os.sched_setaffinity(0, others)
        torch.set_num_threads(max(1, min(n_threads, len(others) // self.at_once)))
        shares = self.device.type == "cuda" and self.settings.protocol == "paired"
        try:
            with core_to_share() if shares else contextlib.nullcontext(NO_CORE) as self._shared_core:
                yield
        finally:
            torch.set_num_threads(n_threads)
            os.sched_setaffinity(0, before)
