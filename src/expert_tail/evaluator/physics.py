"""Is it possible at all? The roofline of a task on a bench, and whether a timing is believed."""

from dataclasses import replace
from typing import Any

from expert_tail.evaluator.bench import Bench
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.roofline import Ceilings, Extent, is_beaten, new_values, roofline_s
from expert_tail.progress import log
from expert_tail.tasks import Task
from expert_tail.tasks.work import work_of


def with_roofline(evaluation: Evaluation, task: Task, bench: Bench, ceilings: Ceilings | None) -> Evaluation:
    """The evaluation with its `roofline_ms`, and rejected where its time is below that. Unchanged without ceilings."""
    if ceilings is None:
        return evaluation
    work = work_of(task)
    inputs, outputs = _extents(bench)
    roofline_ms = 1e3 * roofline_s(work, inputs, outputs, ceilings)
    times = evaluation.kernel_ms, evaluation.baseline_ms
    if work is None and is_beaten(roofline_ms, *times):
        # Where only the source is known, an output may be a view of an input, or hold few values: look closer.
        roofline_ms = 1e3 * roofline_s(None, [], _new_extents(bench), ceilings)
    if is_beaten(roofline_ms, *times):
        evaluation = Evaluation(
            "rejected",
            evaluation.evaluator,
            evaluation.hardware,
            reason="faster_than_roofline",
            error=f"{evaluation.kernel_ms:.3g} ms a call, where this device needs {roofline_ms:.3g} ms at the very least",
            sandbox=evaluation.sandbox,
        )
    elif evaluation.baseline_ms is not None and evaluation.baseline_ms < roofline_ms:
        if work is not None:  # else its outputs are ready-made, and it is the assumption that fails
            log(f"task {task.task_id}: the reference is faster than its roofline, so the measured ceilings are too low")
        roofline_ms = 0.0
    return replace(evaluation, roofline_ms=roofline_ms or None)


def _extents(bench: Bench) -> tuple[list[Extent | None], list[Extent]]:
    specs: list[dict[str, Any]] = list(bench.layout.specs)
    inputs = [Extent.of(spec["dtype"], spec["shape"]) if "dtype" in spec else None for spec in specs]
    return inputs, [Extent.of(output.dtype, output.shape) for output in bench.outputs]


def _new_extents(bench: Bench) -> list[Extent]:
    """Of each output, what no implementation can find ready-made: the least over the cases."""
    cases = bench.case_values()
    counts = [
        new_values(outputs, others, inputs)
        for (outputs, inputs), (others, _) in zip(cases, [*cases[1:], *cases[:1]], strict=True)
    ]
    if not counts:
        return [Extent.of(output.dtype, [0]) for output in bench.outputs]
    least = [min(of_output) for of_output in zip(*counts, strict=True)]
    return [Extent.of(output.dtype, [n]) for output, n in zip(bench.outputs, least, strict=True)]
