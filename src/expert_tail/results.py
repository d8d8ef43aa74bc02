"""Tables of results: CSV files for people, with numbers of a length that they can read."""

from pathlib import Path

import polars as pl

from expert_tail.artifacts import replacing

SIGNIFICANT = 5  # digits: more than the measurements hold, few enough to read


def rounded(table: pl.DataFrame) -> pl.DataFrame:
    """Floats to `SIGNIFICANT` digits."""
    return table.with_columns(pl.col(pl.Float64).round_sig_figs(SIGNIFICANT))


def write_table(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Write `table` as CSV, whole or not at all; returns it as it was written, rounded."""
    table = rounded(table)
    with replacing(path) as temporary:
        temporary.write_text(table.write_csv())
    return table
