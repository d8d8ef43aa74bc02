"""A task's reference: the inputs drawn, what the outputs must be, and the baseline. Shared by all candidates of a task."""

import contextlib
import gc
import itertools
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from expert_tail.evaluator.alone import NO_CORE
from expert_tail.evaluator.arm import Arm, Ran
from expert_tail.evaluator.build import Builds, needs_build
from expert_tail.evaluator.cases import Case, Output, Question, check, stacked
from expert_tail.evaluator.compilers import FOLDER
from expert_tail.evaluator.correctness import VARIATIONS, Expected, expect
from expert_tail.evaluator.draws import Draws
from expert_tail.evaluator.layout import Inputs, Layout
from expert_tail.evaluator.memory import DeviceBuffer, DeviceMemory, HostMemory
from expert_tail.evaluator.process import Worker, WorkerFailure
from expert_tail.evaluator.room import LARGE_BYTES, Room
from expert_tail.evaluator.server import ForkServer, limits_of
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.evaluator.tensors import Tensor, are_finite, flat_array
from expert_tail.evaluator.worker import RUN, RUN_DOUBLE, RUN_KEEPING, RUN_PRECISE
from expert_tail.progress import log
from expert_tail.tasks import Task

# On a GPU one trial is as many calls as take this long, each on inputs of its own: releasing a process and switching the
# device to it takes half a millisecond, which varies by a tenth of one.
TRIAL_S, MAX_CALLS = 8e-3, 64
INPUT_SHARE, OUTPUT_SHARE = 1 / 8, 1 / 64  # of a device's memory, for one trial's; each worker keeps its outputs
N_IDLE = 8
DOUBLE_BYTES = 1 << 31  # outputs up to this are compared with float64 ones, others with float32 ones that no TF32 is in
WARM_UP_RUNS = 12  # on a CPU: most runs of a new process before it is timed


class Bench:
    """A task's reference, ready to be compared with. Raises `WorkerFailure` where the reference itself fails.

    `core`: where its workers run. `shared_core`: where they and the caller's thread take turns while they are timed.
    `is_frugal`: give back device memory after each use, at a cost in time.
    """

    def __init__(
        self,
        server: ForkServer,
        builds: Builds,
        task: Task,
        settings: EvaluatorSettings,
        device: torch.device,
        core: int = NO_CORE,
        shared_core: int = NO_CORE,
        is_frugal: bool = False,
    ) -> None:
        self.room = Room(device, is_frugal)
        self.settings, self.device, self._server, self._task = settings, device, server, task
        self._core, self._shared_core = core, shared_core
        self._can_wake = True
        self._builds = builds
        self._stack = contextlib.ExitStack()
        self._draws = Draws(settings, self.room)
        self.seed = self._draws.seed("parameters")  # this one candidates do get
        try:
            self._buffer = DeviceBuffer(device)
            self._stack.callback(self._buffer.close)
            self._reference = self._arm(is_reference=True)
            self._stack.callback(self._reference.close)
            scratch = self._reference.worker.scratch
            (scratch / "candidate.py").write_text(task.reference_source)
            self.blob = scratch / "parameters.pickle"
            reference, timeout_s = self._reference.worker, settings.timeout_s
            reference.call({"do": "load", "path": str(scratch / "candidate.py")}, "loaded", timeout_s)
            reference.call({"do": "describe", "blob": str(self.blob), "seed": self.seed}, "done", timeout_s)
            self._draws.start(self._reference)
            self._shape(self.layout, [self._reference])
            self.cases = [case for i in range(settings.correctness_trials) if (case := self._case(i)) is not None]
            self._draws.variations = [VARIATIONS[case.index] for case in self.cases if case.index < len(VARIATIONS)]
            self.overhead_s = 0.0
            self.baseline = self.new_baseline()
            self._stack.callback(self.baseline.close)
            self.prove(self.baseline)
            self.settle()
            if device.type == "cuda":
                with self.on_one_core():
                    self._lengthen_trials()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()
        self._draws.forget()
        if self.device.type == "cuda":
            gc.collect()  # an error on its way up refers to frames, and they to tensors and to it
        self.room.trim()

    @property
    def layout(self) -> Layout:
        return self._draws.layout

    def settle(self) -> None:
        """Wait until nothing starts any more."""
        self._server.settle()

    @contextlib.contextmanager
    def on_one_core(self) -> Iterator[None]:
        """Have this thread and the workers of a GPU take turns on one core: what differs between cores, and how long it takes
        to wake one, is then no difference between arms. On an H200 the noise of a run falls from 0.08 ms to 0.05.
        """
        before = os.sched_getaffinity(0)
        if self._shared_core != NO_CORE:
            os.sched_setaffinity(0, {self._shared_core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def calibrate(self) -> None:
        """Learn how a device does that is at rest; before candidates are there."""
        if self.device.type == "cuda":
            with self.on_one_core():  # as it will be looked at
                self._buffer.rest.calibrate()

    def save_memory(self) -> None:
        """Be frugal from now on, and give back what is held."""
        self.room.is_frugal = True
        self._server.discard()
        self._draws.forget()
        self._reference.release(self.settings.timeout_s)
        self.room.trim()

    def loaded(self, source: str, name: str, is_new: bool = False) -> Arm:
        """A fresh worker with the class `name` of `source` in it, not yet run; close it. Raises `WorkerFailure`.

        `is_new`: not one of those that were prepared, of which there may be some for one arm and none for the other.

        The baseline is made like a candidate, since a process with another history runs the same code up to 5 % faster
        or slower: its memory lies elsewhere. Threads may load several at a time.
        """
        built = self._builds.find(self._build_key(source)) if needs_build(source) else None
        arm = self._arm(writable=built is not None, is_new=is_new)
        # Loading what was compiled takes part of what compiling it took: torch.compile reads its own modules first.
        worker, timeout_s = arm.worker, self.settings.timeout_s if built is None else self.settings.build_timeout_s
        try:
            path, blob = worker.scratch / "candidate.py", worker.scratch / "parameters.pickle"
            path.write_text(source, errors="replace")
            shutil.copyfile(self.blob, blob)  # a copy: some may write into their folder
            if built is not None:
                worker.first_run_s = timeout_s
                shutil.copytree(built, worker.scratch / FOLDER)
                (worker.scratch / FOLDER / "tmp").mkdir()
            worker.call({"do": "load", "path": str(path)}, "loaded", timeout_s)
            construct = {"do": "construct", "name": name, "blob": str(blob), "seed": self.seed}
            worker.own_parameters = worker.call(construct, "parameters", timeout_s) == "own"
            arm.allocate(self.layout, timeout_s)
        except BaseException:
            arm.close()
            raise
        return arm

    def build(self, source: str) -> None:
        """Compile what a candidate compiles, for `loaded` to find, which raises if this failed. Threads may build several."""

        def run(worker: Worker) -> None:
            candidate, reference = worker.scratch / "candidate.py", worker.scratch / "reference.py"
            candidate.write_text(source, errors="replace")
            reference.write_text(self._task.reference_source)
            shutil.copyfile(self.blob, blob := worker.scratch / "parameters.pickle")
            timeout_s = self.settings.build_timeout_s
            worker.call({"do": "load", "path": str(candidate)}, "loaded", timeout_s)
            try:
                construct = {"do": "construct", "name": "ModelNew", "blob": str(blob), "seed": self.seed}
                worker.call(construct, "parameters", timeout_s)
                worker.call({"do": "rehearse", "path": str(reference)}, "done", timeout_s)
            except WorkerFailure as failure:  # its evaluation will find the same, or miss what was not compiled
                self._builds.notes[self._build_key(source)] = failure.error

        if needs_build(source):
            compilers = limits_of(self.settings, self._core, self.device, compiles=True)
            self._builds.build(self._build_key(source), lambda: self._server.start(compilers), run)

    def build_note(self, source: str) -> str:
        """What went wrong when a candidate was run to be compiled; empty if nothing did."""
        return self._builds.notes.get(self._build_key(source), "")

    def _build_key(self, source: str) -> str:
        return self._builds.key(source, self._task.reference_source)

    def new_baseline(self, is_new: bool = False) -> Arm:
        """The reference in a process like a candidate's."""
        return self.loaded(self._task.reference_source, "Model", is_new)

    def questions(self) -> Iterator[Question]:
        """Every case; draws anew what is too large to be kept. Raises `WorkerFailure` where there is no room for that."""
        for case in self.cases:
            yield self._question(case)

    def _question(self, case: Case) -> Question:
        inputs, expected = self._draws.of_case(case.index), case.expected
        if expected is None:
            expected = self._from(self.baseline.run(inputs, self.settings.timeout_s), [case.errors])
        return Question(inputs, expected, is_small=case.expected is not None)

    def ask(self, arm: Arm, question: Question, before: Ran | None) -> Ran | None:
        """Its run, for the next question's `before`. Raises `WorkerFailure` unless the answer is right."""
        kind = RUN_KEEPING if question.is_small else RUN
        timeout_s, arm.worker.first_run_s = max(arm.worker.first_run_s, self.settings.timeout_s), 0.0
        ran = arm.run(question.inputs, timeout_s, kind, self.outputs)
        try:
            check(ran.outputs, question.expected)
        except WorkerFailure as failure:
            if arm.worker.own_parameters:
                failure.error += "; its parameters have other names and shapes than the reference's"
            raise
        if before is not None:
            arm.check_intact(before)
        return ran if question.is_small else None

    def prove(self, arm: Arm) -> None:
        """Ask a fresh arm every question. Raises `WorkerFailure` unless it is right on all."""
        before: Ran | None = None
        for question in self.questions():
            before = self.ask(arm, question, before)
            del question  # of large tensors, before the next are made

    def case_values(self) -> list[tuple[list[Any], list[Any]]]:
        """Outputs and input tensors of each case that is kept, as flat NumPy arrays."""
        found = []
        for case in self.cases:
            if case.expected is not None:
                inputs = [x.data for x in self._draws.of_case(case.index).of_call(self.layout, 0)]
                outputs = [output.computed.data for output in case.expected]
                found.append(tuple([flat_array(x) for x in tensors] for tensors in (outputs, inputs)))
        return found  # type: ignore[return-value]

    def warm_ups(self) -> Iterator[Inputs]:
        """What new processes run untimed, all in turn: on a GPU one trial, if that is more than the cases were.

        On a CPU a process asks the kernel for pages in its first calls, which then take several times as long.
        """
        if self.device.type == "cuda":
            yield from [self.trial(0)] if self.layout.n_calls > 1 else []
            return
        for case in itertools.islice(itertools.cycle(self.cases), WARM_UP_RUNS):
            yield self._draws.of_case(case.index)

    def wake(self) -> None:
        """Have a process use a GPU that is not timed, if there is one: the first run after large inputs takes 0.15 ms more."""
        if self.device.type == "cuda" and not self.room.is_frugal and self._can_wake:
            try:
                self.baseline.wake(self.settings.timeout_s)
                self._buffer.rest.flush()  # the device is this process' again: to switch takes as long as others' work
            except WorkerFailure as failure:  # for which nobody is to blame
                self._can_wake = False
                log(f"task {self._task.task_id}: the first run of each round may take a little longer: {failure.error}")

    def seconds(self, ran: Ran) -> float:
        """Seconds a call of a run took, without what a run of no work takes."""
        return max(ran.seconds - self.overhead_s, 1e-7) / len(ran.outputs)

    def new_trials(self, count: int) -> int:
        """The number before those of `count` trials on whose inputs nothing was timed yet."""
        return self._draws.new_trials(count)

    def trial(self, index: int) -> Inputs:
        """Inputs of timed trial number `index`: the same for all that are timed in it. Number 0 is kept for more of them."""
        return self._draws.of_trial(index)

    def expected(self, index: int, baseline: Ran) -> list[Output]:
        """What a timed trial must return: the baseline's own outputs, within the errors of both arms."""
        return self._from(baseline, [case.errors for case in self._cases_like(index)])

    def is_void(self, index: int, expected: list[Output]) -> bool:
        """Whether the baseline overflowed in a timed trial, where another order of the same operations may not."""
        cases = self._cases_like(index)
        finite_N = torch.tensor([case.is_finite for case in cases], device=self.device)
        return any(bool((finite_N & ~are_finite(e.computed.rows(len(cases)))).any()) for e in expected)

    def _cases_like(self, trial: int) -> list[Case]:
        """For each call of a trial the case of the same variation."""
        return [self.cases[place] for place in self._draws.variations_of_trial(trial)]

    def _from(self, baseline: Ran, errors: list[list[float]]) -> list[Output]:
        """Expectations from the baseline's outputs and, for each call, the reference's own error in each output."""
        found = []
        for j, like in enumerate(self.outputs):
            computed = Tensor(like.dtype, stacked(baseline.outputs, j))
            errors_N = torch.tensor([2 * of_call[j] for of_call in errors], dtype=torch.float64, device=self.device)
            found.append(Output(computed, Expected(computed.rows(len(errors)), errors_N)))
        return found

    def _lengthen_trials(self) -> None:
        """Have a trial be as many calls as it should be, and learn what a run of no work takes then."""
        if (n_calls := self._calls_of_a_trial()) > 1:
            self._shape(replace(self.layout, n_calls=n_calls), [self.baseline])
        for inputs in self.warm_ups():
            self.baseline.run(inputs, self.settings.timeout_s)
        idle = [self.baseline.idle(self.settings.timeout_s) for _ in range(N_IDLE)]
        self.overhead_s = min(idle)  # the least, so that no time is taken off that was really spent

    def _calls_of_a_trial(self) -> int:
        """Calls that take about `TRIAL_S`, if there is room for their tensors."""
        inputs, timeout_s = self._draws.of_case(0), self.settings.timeout_s
        self.baseline.run(inputs, timeout_s)
        idle = min(self.baseline.idle(timeout_s) for _ in range(N_IDLE))
        busy = min(self.baseline.run(inputs, timeout_s).seconds for _ in range(N_IDLE))
        total = 0 if self.room.is_frugal else torch.cuda.mem_get_info(self.device)[1]
        most = min(
            INPUT_SHARE * total / max(1, self.layout.call_bytes), OUTPUT_SHARE * total / max(1, self._call_bytes)
        )
        return max(1, min(MAX_CALLS, int(most), math.ceil(TRIAL_S / max(busy - idle, 1e-6))))

    def _shape(self, layout: Layout, arms: list[Arm]) -> None:
        """Lay inputs out like this from now on."""
        self._draws.layout = layout
        if self.device.type == "cuda":
            self._buffer.resize(layout.n_bytes)
        for arm in arms:
            arm.allocate(layout, self.settings.timeout_s)

    def has_room_beside(self, n: int) -> bool:
        """Whether a device has room for another candidate beside so many, who hold the outputs of one call.

        When they are timed each holds those of a trial, and so do copies of the baseline's and of one that differs: most do not.
        """
        return self.room.is_left(self.bytes_of_outputs(n) - n * self._call_bytes)

    def bytes_of_outputs(self, n: int) -> int:
        """What outputs take when so many candidates are timed: theirs, and copies of some."""
        return (3 + n) * self.layout.n_calls * self._call_bytes

    @property
    def _call_bytes(self) -> int:
        """Of the outputs of one call."""
        return sum(output.n_bytes for output in self.outputs)

    def _arm(self, is_reference: bool = False, writable: bool = False, is_new: bool = False) -> Arm:
        """A worker and its memory."""
        limits = limits_of(self.settings, self._core, self.device, is_reference, writable)
        worker = self._server.start(limits, is_new)
        return Arm(worker, HostMemory(worker) if self.device.type == "cpu" else DeviceMemory(worker, self._buffer))

    def _case(self, index: int) -> Case | None:
        inputs = self._draws.of_case(index)
        try:
            (single,) = self._reference.run(inputs, self.settings.timeout_s).outputs
            if index == 0:
                self.outputs = [tensor.described_only() for tensor in single]
            self._give_back(single)
            expected = self._expected(inputs, single)
        except WorkerFailure as failure:
            if index == 0 or failure.status != "runtime_error":
                raise
            return None  # the task does not allow this variation, for example class indices that were floats
        values = [x for e in expected for x in (e.exact.values_NS, e.computed.rows(1))]
        is_finite = all(bool(are_finite(values_NS).all()) for values_NS in values)
        if index > 0 and not is_finite:
            return None  # where float32 overflows, another order of the same operations may not
        errors = [float(e.exact.errors_N) for e in expected]
        n_bytes = sum(e.computed.n_bytes + e.exact.values_NS.nbytes for e in expected)
        self._give_back(single)
        return Case(index, errors, is_finite, expected if n_bytes <= LARGE_BYTES else None)

    def _expected(self, inputs: Inputs, single: list[Tensor]) -> list[Output]:
        n_bytes = sum(tensor.n_bytes for tensor in single)
        exact = single
        # A reference that names its dtype cannot run in float64, nor can one whose tensors fill the device.
        for kind in [RUN_DOUBLE, RUN_PRECISE] if n_bytes <= DOUBLE_BYTES else [RUN_PRECISE]:
            try:
                (exact,) = self._reference.run(inputs, self.settings.timeout_s, kind).outputs
                break
            except (WorkerFailure, torch.OutOfMemoryError) as error:
                if isinstance(error, WorkerFailure) and error.status not in ("runtime_error", "out_of_memory"):
                    raise
                self._give_back(single)
                self.room.trim()
        return [Output(s, expect(s.rows(1), e.rows(1))) for s, e in zip(single, exact, strict=True)]

    def _give_back(self, tensors: list[Tensor]) -> None:
        """Have the reference give back memory that it holds for large tensors."""
        if self.room.is_short_after(tensors):
            self._reference.release(self.settings.timeout_s)
