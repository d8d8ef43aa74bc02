"""Read the steps of runs and their probes, write the two tables."""

from pathlib import Path

import polars as pl

from expert_tail.adapt.settings import AdaptationSettings
from expert_tail.adaptation_tables import probes as probe_table
from expert_tail.adaptation_tables import trajectory as run_table
from expert_tail.adaptation_tables.steps import load_probe, load_steps, load_verdicts, place
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.progress import log, progress
from expert_tail.results import write_table


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
        verdicts = load_verdicts(evaluations)
        probed = []
        for path in sorted(probes, key=place):
            probed += probe_table.probe(*place(path), load_probe(path, verdicts), settings)
            advance()
    _write(output / "adaptation.csv", rows, run_table.COLUMNS)
    _write(output / "probes.csv", probed, probe_table.COLUMNS)
    log(f"adaptation_tables: {len(rows)} steps of {len(adaptation.wanted)} runs, {len(probes)} probes -> {output}")


def _write(path: Path, rows: list[dict], columns: list[str]) -> None:
    table = pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema=columns)
    write_table(table.select(columns), path)
