"""Put the shards of an evaluation together."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from expert_tail import artifacts
from expert_tail.artifacts import ArtifactError
from expert_tail.progress import log

KEYS = ["task_id", "seed", "sample", "candidate_sha256"]
AGAIN = "remove all shards and run again"


def run(samples: Path, shards: Sequence[Path], output: Path) -> None:
    """Write the evaluations of all shards, in the order of the samples. Raises `ArtifactError` unless the shards fit."""
    notes = [artifacts.notes(shard) for shard in shards]
    noted = {of_shard["settings"] for of_shard in notes}
    if len(noted) != 1:
        raise ArtifactError(f"the shards beside {shards[0]} were made with {len(noted)} settings; {AGAIN}")
    wanted = pl.DataFrame(artifacts.read(samples, "samples", KEYS))
    found = pl.concat([pl.DataFrame(artifacts.read(shard, "evaluations")) for shard in shards])
    table = gathered(wanted, found, f"the shards beside {shards[0]}")
    if found["hardware"].n_unique() > 1:
        log(
            f"{output}: speedups were measured on different hardware (column `hardware`): "
            f"{', '.join(found['hardware'].unique().sort())}; keep evaluations on nodes of one kind (docs/cluster.md)"
        )
    subset = artifacts.notes(samples)["subset"]
    spent = {
        "seconds": str(sum(float(of_shard["seconds"]) for of_shard in notes)),
        "measured": str(sum(int(of_shard["measured"]) for of_shard in notes)),
    }
    artifacts.write(output, "evaluations", table.to_arrow(), subset=subset, settings=noted.pop(), **spent)
    log(f"{table.height} evaluations of {len(shards)} shards -> {output}")


def gathered(samples: pl.DataFrame, evaluations: pl.DataFrame, name: str) -> pl.DataFrame:
    """`evaluations` in the order of `samples`; an `ArtifactError` that begins with `name` unless each sample has just one."""
    for rows, what in (
        (evaluations.filter(evaluations.select(KEYS).is_duplicated()), "have twice"),
        (samples.join(evaluations, on=KEYS, how="anti"), "lack"),
        (evaluations.join(samples, on=KEYS, how="anti"), "are of other samples; they have"),
    ):
        if not rows.is_empty():
            first = rows.row(0, named=True)
            raise ArtifactError(f"{name} {what} sample {first['sample']} of task {first['task_id']}; {AGAIN}")
    return samples.select(KEYS).join(evaluations, on=KEYS, how="left", maintain_order="left")
