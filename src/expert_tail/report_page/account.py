"""What was run, and what a reader should know before believing it: from the configuration and the artifacts' metadata. Pure."""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from expert_tail import artifacts
from expert_tail.evaluator.sandbox import missing

Notes = list[tuple[str, artifacts.Notes]]  # of each file: its kind, and its metadata as `artifacts.notes` gives it


@dataclass(frozen=True)
class Fact:
    term: str
    text: str


def summary(config: dict[str, Any], evaluations: pl.DataFrame) -> str:
    """What was run, in one line."""
    parts = [
        f"{config['policy']['name']} after {_count(config['rlvr']['steps'], 'training step')}",
        f"{_count(evaluations['task_id'].n_unique(), 'task')}, K = {config['sampling']['k']} samples each",
        f"seeds {_list(evaluations['seed'])}",
        f"{config['evaluator']['protocol']} timing on {_list(evaluations['hardware'])}",
    ]
    return " \N{MIDDLE DOT} ".join(parts)


def facts(config: dict[str, Any], evaluations: pl.DataFrame, notes: Notes) -> list[Fact]:
    """What was run. `evaluations` has subset, task_id, seed, hardware, sandbox, evaluator, measured_at."""
    policy, rlvr, sampling, evaluator = (config[name] for name in ("policy", "rlvr", "sampling", "evaluator"))
    rollouts = rlvr["steps"] * rlvr["tasks_per_step"] * rlvr["rollouts_per_task"]
    found = [
        Fact("Policy", f"{policy['name']} ({policy['source']}), {policy['dtype']}"),
        Fact(
            "Training",
            f"LoRA of rank {config['lora']['rank']}, {rlvr['steps']} steps of {rlvr['tasks_per_step']} tasks x "
            f"{rlvr['rollouts_per_task']} rollouts ({_count(rollouts, 'rollout')}), temperature {rlvr['temperature']}",
        ),
        Fact("Tasks", f"{config['tasks']['source']}, {config['tasks']['scale']} sizes: {_subsets(evaluations)}"),
        Fact(
            "Samples",
            f"K = {sampling['k']} a task and seed, temperature {sampling['temperature']}, seeds "
            f"{_list(evaluations['seed'])}: {_count(evaluations.height, 'sample')}",
        ),
        Fact("Evaluator", _protocol(evaluator)),
        Fact("Hardware", _list(evaluations["hardware"])),
        Fact("Sandbox", _list(evaluations["sandbox"]) or "none"),
        Fact("Code", _code(notes)),
    ]
    days = evaluations["measured_at"].drop_nulls().sort().dt.strftime("%Y-%m-%d %H:%M").unique(maintain_order=True)
    if days.len():
        found.append(Fact("Measured", f"{' to '.join(dict.fromkeys((days[0], days[-1])))} UTC"))
    return found


def cautions(evaluations: pl.DataFrame, notes: Notes, adaptation: pl.DataFrame | None) -> list[str]:
    """What does not fit together, or weakens the result; a sentence each. `adaptation`: the table of that name."""
    found = []
    current = set(evaluations["evaluator"].drop_nulls())
    trained_by = {note["evaluator"] for kind, note in notes if kind == "rollouts" and note.get("evaluator")}
    if other := trained_by - current:
        found.append(
            f"Training reward was measured with the evaluator of its time ({_list(other)}), these evaluations with "
            f"another ({_list(current)}). rlvr.retrain_on_evaluator_change trains again."
        )
    if adaptation is not None and not adaptation.is_empty():
        judged_by = {one for text in adaptation["evaluator"].drop_nulls() for one in str(text).split()}
        if other := judged_by - current:
            found.append(
                f"Adaptation was measured with the evaluator of its time ({_list(other)}), the samples with another "
                f"({_list(current)}). adaptation.rerun_on_evaluator_change adapts again."
            )
    if len(current) > 1:
        found.append(f"The samples were measured with different evaluators ({_list(current)}): they do not compare.")
    if evaluations["hardware"].n_unique() > 1:
        found.append("The samples were measured on different hardware: compare within a task, not between.")
    exposed = sum(bool(missing(used or "")) for used in evaluations["sandbox"])
    if exposed:
        found.append(
            f"{exposed} of {evaluations.height} evaluations ran without Landlock or seccomp: a hostile candidate could "
            "have read or written outside its process."
        )
    revisions = {note["git_revision"] for _, note in notes if note.get("git_revision")}
    if len(revisions) > 1:
        found.append(f"The artifacts were made by different revisions of the code ({_list(revisions)}).")
    if any(revision.endswith("-dirty") for revision in revisions):
        found.append("The code had changes that were not committed (-dirty).")
    return found


def audit_sentence(null_audit: pl.DataFrame | None) -> str | None:
    """How often the evaluator called a reference faster than itself, from `null_audit.csv`."""
    if null_audit is None:
        return None
    texts = []
    for row in null_audit.filter(pl.col("name") == "all").iter_rows(named=True):
        text = (
            f"under the {row['protocol']} protocol in {row['fast_1']:.2g} of {row['repeats']} repeats by point estimate"
        )
        if row["fast_1_confident"] is not None:
            text += (
                f", confidently in {row['fast_1_confident']:.2g} (interval {row['fast_1_confident_low']:.2g} to "
                f"{row['fast_1_confident_high']:.2g}; 0.025 is allowed)"
            )
        texts.append(text)
    return f"Null audit: a reference came out faster than itself {'; '.join(texts)}." if texts else None


def budget_sentences(table10: pl.DataFrame | None) -> list[str]:
    """What the same rollouts give to sampling and to adaptation, from `table10.csv`; a sentence for each subset with runs on it.

    Of each run (or its seeds together) the last step within the budget counts, judged by fresh rollouts where there are such.
    """
    if table10 is None or table10.is_empty():
        return []
    found = []
    for (subset,), of_subset in table10.group_by("subset", maintain_order=True):
        base = of_subset.filter(pl.col("reported_on") == "samples").row(0, named=True)
        adapted = (
            of_subset.filter(pl.col("run").is_not_null() & (pl.col("step") > 0))
            .sort(pl.col("reported_on") == "fresh", "step", descending=True)
            .unique("run", keep="first")
        )
        if adapted.is_empty():
            continue
        deltas = adapted.select("fast_1_delta_low", "fast_1_delta_high")
        better, worse = (deltas["fast_1_delta_low"] > 0).sum(), (deltas["fast_1_delta_high"] < 0).sum()
        ends = dict.fromkeys(
            f"{100 * value:.2g}" for value in sorted(adapted["fast_1"].to_list())[:: adapted.height - 1 or 1]
        )
        found.append(
            f"{subset}, at {_count(base['rollouts'], 'rollout')}: the fastest of all samples beats the reference on "
            f"{100 * base['best_of_k_fast_1']:.3g} % of the tasks (fast_1; confidently on "
            f"{100 * base['best_of_k_fast_1_confident']:.3g} %), a single sample does so at a rate of "
            f"{100 * base['fast_1']:.2g} %. Spent on adaptation instead ({_count(adapted.height, 'configuration')}), the "
            f"rollouts give a policy whose single sample is at {' to '.join(ends)} %. The interval of the difference lies above 0 "
            f"for {better or 'none'} of them, below 0 for {worse or 'none'}; nothing corrects for their number."
        )
    return found


def adaptation_fact(adaptation: pl.DataFrame | None) -> list[Fact]:
    """The runs of `adaptation.csv` by objective; none where there is none."""
    if adaptation is None or adaptation.is_empty():
        return []
    runs = adaptation.group_by("objective").agg(pl.col("run").n_unique(), pl.col("step").max()).sort("objective")
    texts = [f"{row['objective']} ({row['run']}, up to step {row['step']})" for row in runs.iter_rows(named=True)]
    return [Fact("Adaptation", f"{_count(adaptation['run'].n_unique(), 'run')}: {', '.join(texts)}")]


def _subsets(evaluations: pl.DataFrame) -> str:
    tasks = evaluations.group_by("subset", maintain_order=True).agg(pl.col("task_id").unique().sort())
    return "; ".join(f"{name} ({', '.join(map(str, ids))})" for name, ids in tasks.rows())


def _protocol(evaluator: dict[str, Any]) -> str:
    if evaluator["protocol"] == "paired":
        return (
            f"paired protocol: baseline and candidate in turn, {evaluator['min_pairs']} to {evaluator['max_pairs']} "
            f"pairs, a claim replicated in {evaluator['replicates']} pairs of processes"
        )
    return f"{evaluator['protocol']} protocol: mean of {evaluator['paper_trials']} trials, without an interval"


def _code(notes: Notes) -> str:
    versions = _list(note["expert_tail"] for _, note in notes if "expert_tail" in note)
    revisions = _list(note["git_revision"] for _, note in notes if note.get("git_revision"))
    libraries = sorted(
        {
            f"{k} {v}"
            for _, n in notes
            for k, v in json.loads(n.get("libraries", "{}")).items()
            if k in ("torch", "transformers")
        }
    )
    return f"expert-tail {versions}, revision {revisions}; {', '.join(libraries)}"


def _list(values: Any) -> str:
    return ", ".join(sorted({str(value) for value in values if value not in (None, "")}))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n:,} {noun}s".replace(",", "\N{NARROW NO-BREAK SPACE}")
