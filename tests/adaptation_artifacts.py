"""Artifacts of adaptation runs and of their probes, made up: for what reads them."""

from pathlib import Path
from typing import Any

import numpy as np

from expert_tail import artifacts
from expert_tail.adapt.settings import Run

Row = dict[str, Any]
SPEEDUPS = {"slow": 0.5, "lucky": 1.02, "fast": 2.0}  # the second is above 1 by its estimate only


def blank(kind: str, **values: Any) -> Row:
    return dict.fromkeys(artifacts.SCHEMAS[kind].names) | values


def write_run(folder: Path, run: Run, rates: dict[int, list[tuple[int, int]]]) -> None:
    """A run whose step s has, of each task's rollouts, `rates[task][s]` = (fast, lucky) ones; of the rest, which are slow,
    the last is incorrect. Fresh rollouts, if the run draws them, are as many and half as often fast."""
    for step in range(run.steps + 1):
        place = folder / f"step={step}"
        counts = {task: of_task[step] for task, of_task in rates.items()}
        drawn = _write(place, "", run, step, counts, run.rollouts)
        fresh = 0
        if run.is_fresh:
            halved = {task: (fast // 2, lucky // 2) for task, (fast, lucky) in counts.items()}
            fresh = _write(place, "fresh_", run, step, halved, run.fresh_rollouts)
        is_last = step == run.steps
        account = {field.name: 0 for field in artifacts.SCHEMAS["accounts"]} | {"step": step, "lr": run.lr}
        account |= {"objective": run.objective, "rollouts": drawn, "fresh_rollouts": fresh, "measured": 2}
        account |= {"student_tokens": 110 * drawn, "fresh_tokens": 110 * fresh, "sampling_computed": 20 * drawn}
        account |= {"teacher_tokens": 0 if is_last or run.method.teacher is None else 130 * drawn}
        account |= {"loss": None, "gradient_norm": None, "sampling_s": 2.0, "evaluating_s": 1.0}
        artifacts.write(place / "account.parquet", "accounts", [account])


def _write(place: Path, prefix: str, run: Run, step: int, counts: dict[int, tuple[int, int]], rollouts: int) -> int:
    drawn, judged = [], []
    label = {"step": step, "objective": run.objective, "lr": run.lr}
    for task, (fast, lucky) in counts.items():
        kinds = ["fast"] * fast + ["lucky"] * lucky
        kinds += ["slow"] * (rollouts - len(kinds))
        # Interleaved, so that halves by the parity of the index are alike.
        kinds = kinds[::2] + kinds[1::2]
        for i, kind in enumerate(kinds):
            is_wrong = kind == "slow" and i == rollouts - 1
            speedup = 0.0 if is_wrong else SPEEDUPS[kind]
            status = "incorrect" if is_wrong else "correct"
            named = label | {"task_id": task, "candidate_sha256": f"{task}:{kind}:{status}", "status": status}
            named |= {"speedup": speedup, "speedup_low": speedup * 0.9}
            drawn.append(blank("adapt_rollouts", **named, rollout=i, reward=speedup, entropy=0.1))
            judged.append(blank("adapt_evaluations", **named, seed=run.seed, sample=i, evaluator="one"))
    artifacts.write(place / f"{prefix}rollouts.parquet", "adapt_rollouts", drawn)
    artifacts.write(place / f"{prefix}evaluations.parquet", "adapt_evaluations", judged)
    return len(drawn)


def write_probe(path: Path, samples: list[Row], step: int) -> None:
    """Surprisal of the rows (task_id, seed, sample, nll, nll_mean, n_tokens), which moves with the step."""
    rng = np.random.default_rng(step)
    rows = [
        row | {"scorer": f"{path.parent.name}/step={step}", "nll": nll, "nll_mean": nll / 10, "nll_tail": nll / 5}
        for row, nll in ((row, float(row["nll"] + rng.normal(scale=0.3 * step))) for row in samples)
    ]
    artifacts.write(path, "probes", rows, subset="one")
