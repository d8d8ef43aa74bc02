"""Read the steps of runs and their probes, write the two tables."""

import re
from pathlib import Path

import polars as pl

from expert_tail import artifacts
from expert_tail.adapt.settings import AdaptationSettings, Run
from expert_tail.adaptation_tables import probes as probe_table
from expert_tail.adaptation_tables import trajectory as run_table
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.errors import UserError
from expert_tail.progress import log, progress

_SIGNIFICANT = 5
_FRAMES = {"rollouts": "adapt_rollouts", "evaluations": "adapt_evaluations", "account": "accounts"}
_FRESH = {"fresh_rollouts": "adapt_rollouts", "fresh_evaluations": "adapt_evaluations"}
_HEAVY = ("token_ids", "sampled_logprobs", "token_advantages", "completion")
_KEYS = ["task_id", "seed", "sample"]
_VERDICT = [*_KEYS, "candidate_sha256", "status", "speedup"]


def run(
    settings: AggregateSettings,
    adaptation: AdaptationSettings,
    runs: Path,
    probes: list[Path],
    evaluations: list[Path],
    budget: int,
    output: Path,
) -> None:
    """Write adaptation.csv and probes.csv to the folder `output`, each whole or not at all.

    `runs` holds the runs that `adaptation` wants, `probes` are files …/RUN/step=N.parquet, and `evaluations` those of the
    probed samples. `budget` is the rollouts of a task that Best-of-N draws. Raises `ArtifactError` where a file is
    missing or damaged, or where probes and evaluations are not of the same samples.
    """
    rows = []
    with progress("adaptation_tables", len(adaptation.wanted) + len(probes)) as advance:
        for name in adaptation.wanted:
            steps = load_steps(runs / name, adaptation.runs[name])
            rows += run_table.trajectory(name, adaptation.runs[name], steps, budget, adaptation.patience, settings)
            advance()
        verdicts = pl.concat(
            [pl.DataFrame(artifacts.read(path, "evaluations", _VERDICT)) for path in evaluations] or [pl.DataFrame()]
        )
        probed = []
        for path in sorted(probes, key=_place):
            probed += probe_table.probe(*_place(path), _joined(path, verdicts), settings)
            advance()
    _write(output / "adaptation.csv", rows, run_table.COLUMNS)
    _write(output / "probes.csv", probed, probe_table.COLUMNS)
    log(f"adaptation_tables: {len(rows)} steps of {len(adaptation.wanted)} runs, {len(probes)} probes -> {output}")


def load_steps(folder: Path, run: Run) -> list[dict[str, pl.DataFrame]]:
    """The frames of each step of a run: rollouts, evaluations, account and, with fresh validation, the fresh ones."""
    kinds = _FRAMES | (_FRESH if run.is_fresh else {})
    return [
        {name: _frame(folder / f"step={step}" / f"{name}.parquet", kind) for name, kind in kinds.items()}
        for step in range(run.steps + 1)
    ]


def _frame(path: Path, kind: str) -> pl.DataFrame:
    columns = [name for name in artifacts.SCHEMAS[kind].names if name not in _HEAVY]
    return pl.DataFrame(artifacts.read(path, kind, columns))


def _place(path: Path) -> tuple[str, int]:
    step = re.fullmatch(r"step=(\d+)\.parquet", path.name)
    if not step:
        raise UserError(f"{path}: expected a file …/RUN/step=N.parquet")
    return path.parent.name, int(step[1])


def _joined(path: Path, verdicts: pl.DataFrame) -> pl.DataFrame:
    scored = pl.DataFrame(artifacts.read(path, "probes"))
    joined = scored.join(verdicts, on=_KEYS, how="inner") if verdicts.height else scored.clear()
    if joined.height != scored.height:
        raise artifacts.ArtifactError(
            f"{path}: {scored.height} samples, of which {joined.height} have an evaluation; give those of their subset and seed"
        )
    return joined


def _write(path: Path, rows: list[dict], columns: list[str]) -> None:
    table = pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema=columns)
    table = table.select(columns).with_columns(pl.col(pl.Float64).round_sig_figs(_SIGNIFICANT))
    with artifacts.replacing(path) as temporary:
        temporary.write_text(table.write_csv())
