"""Figures and tables as HTML, each with its caption. Pure but for `parse_svg`'s and `read_table`'s own file."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from docutils.core import publish_parts

from expert_tail import results
from expert_tail.errors import UserError
from expert_tail.figure_style import BLUE, GREY, INK, VERMILLION
from expert_tail.time_experts.verdict import NOT_WINNABLE, UNKNOWN, WINNABLE

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_DROPPED = {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style", f"{{{_SVG}}}script"}
# The style sheet gives each colour of `figure_style` its counterpart in dark mode.
_VARIABLES = {BLUE: "--blue", VERMILLION: "--vermillion", GREY: "--grey", INK: "--ink", "#E4E4E4": "--grid"}
_VARIABLES |= {"#FFFFFF": "--paper", "#000000": "--ink"}
_DOCUTILS = {"raw_enabled": False, "file_insertion_enabled": False, "report_level": 5, "syntax_highlight": "none"}
VERDICTS = {NOT_WINNABLE: "lost", WINNABLE: "winnable", UNKNOWN: "unknown"}
_INTERVAL = ("_low", "_high")
READABLE_ROWS = 1000  # of a longer table, rows of single tasks stay in the file


@dataclass(frozen=True)
class Caption:
    title: str  # the caption up to its first colon or full stop
    html: str


@dataclass(frozen=True)
class Figure:
    name: str
    caption: Caption
    svg: str


@dataclass(frozen=True)
class Cell:
    text: str
    order: str = ""  # what to sort by, where it is not the text
    interval: str = ""
    style: str = ""


@dataclass(frozen=True)
class Table:
    name: str
    caption: Caption
    columns: list[str]
    numeric: list[bool]
    rows: list[list[Cell]]
    lost: list[bool]  # rows of tasks with nothing to be won
    left_out: int  # rows of single tasks, of a long table

    @property
    def label(self) -> str:
        return label(self.name)


def label(name: str) -> str:
    """`table3` -> Table 3, `figure_null_audit` -> Figure null audit, `headroom` -> Headroom."""
    words = re.sub(r"(?<=[a-z])(?=\d)", " ", name.replace("_", " "))
    return words[:1].upper() + words[1:]


def caption(source: str, name: str) -> Caption:
    """A caption in reStructuredText; without one (an empty source) the name stands for it."""
    if not source.strip():
        return Caption(label(name), "")
    parts = publish_parts(source, writer="html5", settings_overrides=_DOCUTILS)
    title = re.split(r"[.:](?:\s|$)", " ".join(source.split()), maxsplit=1)[0]
    return Caption(title.replace("`", ""), parts["body"])


def figure(name: str, svg: str, text: Caption) -> Figure:
    """An SVG of matplotlib's, to be part of a page: its ids made unique by `name`, its colours variables of the page."""
    try:
        root = ET.fromstring(svg)
    except ET.ParseError as error:
        raise UserError(f"{name}.svg is no SVG ({error}); remove it and run again") from error
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _DROPPED]:
            parent.remove(child)
    for element in root.iter():
        element.tag = str(element.tag).removeprefix(f"{{{_SVG}}}")
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set("href" if key == f"{{{_XLINK}}}href" else key, _local(key, value, name))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", text.title)
    return Figure(name, text, ET.tostring(root, encoding="unicode"))


def _local(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href") and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    if key != "style":
        return value
    return re.sub(r"#[0-9a-fA-F]{6}", lambda m: _variable(m[0]), value)


def _variable(colour: str) -> str:
    name = _VARIABLES.get(colour.upper())
    return f"var({name})" if name else colour


def read_table(path: Path) -> pl.DataFrame:
    """A CSV file; or a JSON file, a row for each value in it, or for each object of a list."""
    try:
        if path.suffix != ".json":
            return results.read_table(path)
        found = json.loads(path.read_text())
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path} is not a readable table ({error}); remove it and run again") from error
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return pl.DataFrame(found, infer_schema_length=None, strict=False)
    rows = [{"key": key, "value": value} for key, value in _leaves(found, "")]
    return pl.DataFrame(rows, schema={"key": pl.String, "value": pl.String})


def _leaves(value: Any, key: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [leaf for name, part in value.items() for leaf in _leaves(part, f"{key}.{name}" if key else name)]
    if isinstance(value, list) and any(isinstance(part, (dict, list)) for part in value):
        return [leaf for i, part in enumerate(value) for leaf in _leaves(part, f"{key}[{i}]")]
    return [(key, ", ".join(map(number, value)) if isinstance(value, list) else number(value))]


def table(name: str, frame: pl.DataFrame, text: Caption, unwinnable: set[int]) -> Table:
    """A table to read: floats to three digits (the file has more), and columns x, x_low, x_high as one.

    A long one is shown without its rows of single tasks, where it has others.
    """
    n_rows = frame.height
    if n_rows > READABLE_ROWS and "task_id" in frame.columns and frame["task_id"].null_count():
        frame = frame.filter(pl.col("task_id").is_null()).drop("task_id")
    merged = {column for column in frame.columns if all(f"{column}{end}" in frame.columns for end in _INTERVAL)}
    hidden = {f"{column}{end}" for column in merged for end in _INTERVAL}
    columns = [column for column in frame.columns if column not in hidden]
    verdict = next((column for column in ("headroom", "verdict") if column in columns), None)
    rows, lost = [], []
    for row in frame.iter_rows(named=True):
        rows.append([_cell(row, column, column in merged) for column in columns])
        lost.append(row[verdict] == NOT_WINNABLE if verdict else row.get("task_id") in unwinnable)
    numeric = [frame.schema[column].is_numeric() for column in columns]
    return Table(name, text, columns, numeric, rows, lost, n_rows - frame.height)


def _cell(row: dict[str, Any], column: str, has_interval: bool) -> Cell:
    value = row[column]
    text = number(value)
    if isinstance(value, str) and value in VERDICTS:
        return Cell(text, style=VERDICTS[value])
    low, high = (row[f"{column}{end}"] for end in _INTERVAL) if has_interval else (None, None)
    interval = f"{number(low)} to {number(high)}" if low is not None and high is not None else ""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Cell(text, order=repr(value) if is_number else "", interval=interval)


def number(value: Any) -> str:
    """A value as text: three significant digits of a float, an en dash for nothing."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if value == 0 or 1e-5 <= abs(value) < 1e5:
        digits = 3 if abs(value) < 100 else len(str(int(abs(value))))
        text = f"{value:#.{digits}g}".rstrip(".")
        return "0" if value == 0 else text
    return f"{value:.2e}"
