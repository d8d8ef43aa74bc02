"""Write paper_vs_run.csv from the published numbers and the results folder."""

from pathlib import Path

import polars as pl

from expert_tail.paper_vs_run import PUBLISHED
from expert_tail.paper_vs_run.lookup import Found, Results
from expert_tail.progress import log
from expert_tail.results import SIGNIFICANT, write_table

COLUMNS = ["table", "row", "metric", "paper", "run", "run_low", "run_high", "run_confident", "source", "note"]
NOT_TABULATED = "this run tabulates no such number"


def run(results: Path, output: Path) -> None:
    """One row a published number. Raises `UserError` with the file where a result is missing or of another version."""
    published = pl.read_csv(PUBLISHED, infer_schema=False)
    found = Results(results)
    rows = []
    for row in published.iter_rows(named=True):
        ours = Found(note=NOT_TABULATED)
        if row["file"]:
            ours = found.find(row["file"], row["where"] or "", row["column"])
        note = "; ".join(part for part in (ours.note, row["note"]) if part)
        values = {"run": ours.value, "run_low": ours.low, "run_high": ours.high, "run_confident": ours.confident}
        printed = {name: _printed(value) for name, value in values.items()}
        rows.append({name: row[name] for name in COLUMNS[:4]} | printed | {"source": ours.source, "note": note})
    table = pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String))
    write_table(table, output)
    there = table["run"].is_not_null().sum()
    log(f"paper_vs_run: {there} of {table.height} published numbers have a counterpart in this run -> {output}")


def _printed(value: float | str | None) -> str | None:
    return (
        value
        if value is None or isinstance(value, str)
        else f"{value:.{SIGNIFICANT if isinstance(value, float) else 12}g}"
    )
