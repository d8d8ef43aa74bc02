"""Find this run's counterpart of a published number among the results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml

from expert_tail.errors import UserError
from expert_tail.results import read_table

METRIC, CONFIDENT = "fast_1", "fast_1_confident"


class Found(NamedTuple):
    """A number of this run, its interval and its confident counterpart, where there are such; `note` says what to know."""

    value: Any = None
    low: Any = None
    high: Any = None
    confident: Any = None
    source: str = ""
    note: str = ""


class Results:
    """The results folder, each file read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Any] = {}

    def find(self, file: str, where: str, column: str) -> Found:
        """The counterpart; without one, `note` says why. A file that is not there is a `UserError`."""
        content = self._content(file)
        if isinstance(content, pl.DataFrame):
            return _in_table(content, file, _conditions(where, ";"), column)
        return _in_tree(content, file, column)

    def _content(self, file: str) -> Any:
        if file not in self._read:
            path = self.folder / file
            if not path.exists():
                raise UserError(f"{path} does not exist; run `snakemake results/{file}` to make it")
            try:
                if path.suffix == ".csv":
                    self._read[file] = read_table(path)
                else:
                    self._read[file] = (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text())
            except (pl.exceptions.PolarsError, ValueError, yaml.YAMLError) as error:
                raise UserError(f"{path} cannot be read ({error}); remove it and run again") from error
        return self._read[file]


def _in_table(table: pl.DataFrame, file: str, conditions: Mapping[str, str], column: str) -> Found:
    for name in (*conditions, column):
        if name not in table.columns:
            raise UserError(f"{file} has no column `{name}`, which published.csv names; remove the file and run again")
    rows = [row for row in table.iter_rows(named=True) if _meets(row, conditions)]
    named = ", ".join(f"{key} {value}" if value else f"no {key}" for key, value in conditions.items())
    if not rows:
        return Found(note=f"this run has no row of {file} with {named}")
    note = f"the first of {len(rows)} rows" if len(rows) > 1 else ""
    run = f", run {rows[0]['run']}" if rows[0].get("run") else ""
    return _found(rows[0], column, f"{file}: {named}{run}", note)


def _in_tree(tree: Any, file: str, path: str) -> Found:
    *steps, last = path.split("/")
    at = _at(tree, steps)
    if not isinstance(at, dict) or last not in at:
        return Found(note=f"this run has no {path} in {file}")
    found = _found(at, last, f"{file}: {path}", "")
    if METRIC in steps:
        confident = _at(tree, [CONFIDENT if step == METRIC else step for step in steps])
        found = found._replace(confident=confident.get(last) if isinstance(confident, dict) else None)
    return found


def _at(tree: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(tree, list):
            tree = next((item for item in tree if _meets(item, _conditions(step, "&"))), None)
        elif isinstance(tree, dict):
            tree = tree.get(step)
    return tree


def _found(row: Mapping[str, Any], column: str, source: str, note: str) -> Found:
    value = row[column]
    confident = row.get(column.replace(METRIC, CONFIDENT)) if METRIC in column and CONFIDENT not in column else None
    if value is None:
        why = row.get(f"{column}_place") or row.get("reason") or "empty in this run"
        note = "; ".join(part for part in (why, note) if part)
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    return Found(value, low, high, confident, source, note)


def _conditions(text: str, separator: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(separator) if part)
    return {key: value for key, _, value in pairs}


def _meets(row: Mapping[str, Any], conditions: Mapping[str, str]) -> bool:
    return all(_is_equal(row.get(key), wanted) for key, wanted in conditions.items())


def _is_equal(value: Any, wanted: str) -> bool:
    if value is None or wanted == "":
        return value is None and wanted == ""
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return str(value) == wanted
