"""Loading artifacts of several subsets and seeds: which file is whose, and whether they fit together."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from expert_tail.artifacts import ArtifactError, notes
from expert_tail.errors import UserError
from expert_tail.select.stage import AGAIN, KEYS, join_samples, load, refuse
from expert_tail.success import FAST_1, FAST_1_CONFIDENT, if_correct

Cells = dict[tuple[str, int], Path]  # the file of each (subset, seed)


class Spent(NamedTuple):
    """What a job noted: seconds, and tokens that went through the model; None where an older version noted none."""

    seconds: float | None
    tokens: float | None


def spent(path: Path) -> Spent:
    noted = notes(path)
    return Spent(*(float(noted[key]) if key in noted else None for key in ("seconds", "computed_tokens")))


def cells_of(paths: Sequence[Path]) -> Cells:
    """The subset and seed of each file; a `UserError` names a path that says neither, or says what another one says."""
    found: Cells = {}
    for path in paths:
        seed = re.fullmatch(r"seed=(-?\d+)\.parquet", path.name)
        if not seed:
            raise UserError(f"{path}: expected a file .../SUBSET/seed=SEED.parquet")
        if found.setdefault((path.parent.name, int(seed[1])), path) != path:
            raise UserError(f"{path}: subset {path.parent.name}, seed {seed[1]} is there twice; give it once")
    return found


def check_grid(wanted: pl.DataFrame, found: pl.DataFrame, files: Mapping[int, Path]) -> None:
    """Every row of `wanted` must be there for every seed, and nothing else."""
    for seed, path in sorted(files.items()):
        there = found.filter(pl.col("seed") == seed)
        refuse(wanted.join(there, on=wanted.columns, how="anti"), wanted.columns, f"{path} lacks", f"; {AGAIN}")
        refuse(
            there.join(wanted, on=wanted.columns, how="anti"),
            wanted.columns,
            f"{path} has",
            f"without samples; {AGAIN}",
        )


def scored_samples(evaluations: Cells, logprobs: Cells) -> pl.DataFrame:
    """Verdict and surprisal of every sample that was evaluated; a complete grid of tasks and seeds in each subset.

    Columns: subset, task_id, seed, sample, candidate_sha256, status, speedup and speedup_low (0 unless correct, and where
    the bound is missing), fast_1, fast_1_confident, nll, nll_mean (nats), n_tokens. Raises `ArtifactError` where files
    are damaged, do not hold the same samples, or a sample has no surprisal.
    """
    if not evaluations:
        raise UserError("no evaluations were given; name at least one file .../SUBSET/seed=SEED.parquet")
    loaded = []
    for (subset, seed), path in evaluations.items():
        if (subset, seed) not in logprobs:
            raise UserError(f"{path} has no log-probs beside it; give the file of subset {subset}, seed {seed}, too")
        loaded.append(_scored(subset, seed, path, logprobs[subset, seed]))
    samples = pl.concat(loaded)
    for (name,), of_subset in samples.group_by("subset", maintain_order=True):
        files = {seed: path for (subset, seed), path in evaluations.items() if subset == name}
        check_grid(of_subset.select("task_id").unique(), of_subset.select("task_id", "seed").unique(), files)
    return samples


def refuse_what_is_not_finite(scores: pl.DataFrame, logprobs: Path) -> None:
    """Raise `ArtifactError` where a sample has no surprisal that is a number."""
    for column in ("nll", "nll_mean"):
        unusable = scores.filter(~pl.col(column).is_finite().fill_null(False))
        refuse(unusable, KEYS, f"{logprobs}:", f"has no usable {column}; {AGAIN}")


def _scored(subset: str, seed: int, evaluations: Path, logprobs: Path) -> pl.DataFrame:
    verdicts = load(evaluations, "evaluations", [*KEYS, "candidate_sha256", "status", "speedup", "speedup_low"])
    scores = load(logprobs, "logprobs", [*KEYS, "nll", "nll_mean", "n_tokens"])
    refuse(verdicts.filter(pl.col("seed") != seed), KEYS, f"{evaluations} has", f"under seed {seed}; {AGAIN}")
    if verdicts.is_empty():
        raise ArtifactError(f"{evaluations} has no samples; {AGAIN}")
    joined = join_samples(verdicts, evaluations, scores, logprobs)
    refuse_what_is_not_finite(joined, logprobs)
    return joined.select(
        pl.lit(subset).alias("subset"),
        *KEYS,
        "candidate_sha256",
        "status",
        if_correct("speedup"),
        if_correct("speedup_low"),
        FAST_1.alias("fast_1"),
        FAST_1_CONFIDENT.alias("fast_1_confident"),
        *("nll", "nll_mean", "n_tokens"),
    )
