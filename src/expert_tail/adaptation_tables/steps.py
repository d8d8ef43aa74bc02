"""Load adaptation: the steps of a run, and probes of its checkpoints with the verdicts of the probed samples."""

import re
from pathlib import Path

import polars as pl

from expert_tail import artifacts
from expert_tail.adapt.settings import Run
from expert_tail.errors import UserError

_FRAMES = {"rollouts": "adapt_rollouts", "evaluations": "adapt_evaluations", "account": "accounts"}
_FRESH = {"fresh_rollouts": "adapt_rollouts", "fresh_evaluations": "adapt_evaluations"}
_HEAVY = ("token_ids", "sampled_logprobs", "token_advantages", "completion")
_KEYS = ["task_id", "seed", "sample"]
_VERDICT = [*_KEYS, "candidate_sha256", "status", "speedup"]


def load_verdicts(evaluations: list[Path]) -> pl.DataFrame:
    """Verdicts of probed samples, from their `evaluations` artifacts."""
    found = [pl.DataFrame(artifacts.read(path, "evaluations", _VERDICT)) for path in evaluations]
    return pl.concat(found or [pl.DataFrame()])


def load_steps(folder: Path, run: Run) -> list[dict[str, pl.DataFrame]]:
    """The frames of each step of a run, from its folder: what `trajectory` takes, without tokens and texts."""
    kinds = _FRAMES | (_FRESH if run.is_fresh else {})
    return [
        {name: _frame(folder / f"step={step}" / f"{name}.parquet", kind) for name, kind in kinds.items()}
        for step in range(run.steps + 1)
    ]


def _frame(path: Path, kind: str) -> pl.DataFrame:
    columns = [name for name in artifacts.SCHEMAS[kind].names if name not in _HEAVY]
    return pl.DataFrame(artifacts.read(path, kind, columns))


def place(path: Path) -> tuple[str, int]:
    """Run and step of a probe, by its path."""
    step = re.fullmatch(r"step=(\d+)\.parquet", path.name)
    if not step:
        raise UserError(f"{path}: expected a file …/RUN/step=N.parquet")
    return path.parent.name, int(step[1])


def load_probe(path: Path, verdicts: pl.DataFrame) -> pl.DataFrame:
    """A probe's samples with their verdicts, which must have all of them."""
    scored = pl.DataFrame(artifacts.read(path, "probes"))
    joined = scored.join(verdicts, on=_KEYS, how="inner") if verdicts.height else scored.clear()
    if joined.height != scored.height:
        raise artifacts.ArtifactError(
            f"{path}: {scored.height} samples, of which {joined.height} have an evaluation; give those of their subset and seed"
        )
    return joined
