"""Tables of results: CSV files for people, with numbers of a length that they can read."""

from pathlib import Path

import polars as pl

from expert_tail.artifacts import replacing

SIGNIFICANT = 5  # digits: more than the measurements hold, few enough to read


def rounded(table: pl.DataFrame) -> pl.DataFrame:
    """Floats to `SIGNIFICANT` digits."""
    return table.with_columns(pl.col(pl.Float64).round_sig_figs(SIGNIFICANT))


def read_table(path: Path) -> pl.DataFrame:
    """A table as it was written. A column without any value, of which a CSV file does not say what it holds, is of type Null."""
    table = pl.read_csv(path, infer_schema_length=None)
    return table.with_columns(
        pl.col(name).cast(pl.Null) for name in table.columns if table[name].null_count() == table.height
    )


def write_table(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Write `table` as CSV, whole or not at all; returns it as it was written, rounded."""
    table = rounded(table)
    with replacing(path) as temporary:
        temporary.write_text(table.write_csv())
    return table
