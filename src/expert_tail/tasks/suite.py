"""Loading a suite of tasks from whatever names one, and dividing it into training tasks and evaluation subsets."""

import ast
import difflib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expert_tail.tasks.level1 import level1
from expert_tail.tasks.render import check_scale
from expert_tail.tasks.task import Task, TaskError

BUILT_IN = {"level1": level1}
TRAIN = "train"
PARQUET_COLUMNS = ("problem_id", "name", "code", "level")
UNKNOWN_LEVEL = 0  # of problem files that lie in no folder named level1, level2, ...

_PROBLEM_FILE = re.compile(r"(\d+)_(.+)\.py")
_LEVEL_FOLDER = re.compile(r"level(\d+)")
_DEFINITIONS = {"Model": ast.ClassDef, "get_inputs": ast.FunctionDef, "get_init_inputs": ast.FunctionDef}


class _Problem(NamedTuple):
    """A problem as found, before ids are unique across levels; `origin` is how messages name the place."""

    origin: str
    level: int
    problem_id: int
    name: str
    source: str


def load_suite(source: str, scale: str) -> list[Task]:
    """The tasks of a suite, in order of their ids.

    `source` is `level1` (built in), a KernelBench folder (a checkout, its `KernelBench/`, or one folder of files named
    `N_Name.py`), or a Parquet file with the columns problem_id, name, code and level. `scale` chooses the sizes of the
    built-in suite; files have the sizes that are written in them. A task's id is the problem's number N; where several
    levels are loaded at once it is level * 1000 + N. A folder called `level1` is `./level1`.
    """
    check_scale(scale)
    if source in BUILT_IN:
        return BUILT_IN[source](scale)
    path = Path(source)
    if path.is_dir():
        problems = _read_folder(path)
    elif path.is_file():
        problems = _read_parquet(path)
    else:
        raise TaskError(_unknown_source(source))
    for problem in problems:
        _check_module(problem.source, problem.origin)
    return _number(problems)


def files_of(source: str) -> list[str]:
    """The files that a suite is read from; none where it is built in, or is not there."""
    path = Path(source)
    if source in BUILT_IN or not path.exists():
        return []
    return [str(file) for level in _levels(path) for file in _problem_files(level)] if path.is_dir() else [source]


def _unknown_source(source: str) -> str:
    choices = "give level1 (built in), a folder of KernelBench problem files, or a Parquet file"
    if re.fullmatch(r"level\d+", source):
        return f"suite {source!r} is not built in and no such folder exists: {choices}"
    near = difflib.get_close_matches(source.lower(), BUILT_IN, n=1)
    guess = f"did you mean {near[0]!r}? Otherwise " if near else ""
    return f"unknown suite {source!r}, which is no file or folder either: {guess}{choices}"


def _number(problems: Sequence[_Problem]) -> list[Task]:
    seen: dict[tuple[int, int], _Problem] = {}
    for problem in problems:
        other = seen.setdefault((problem.level, problem.problem_id), problem)
        if other is not problem:
            raise TaskError(
                f"{problem.origin}: problem id {problem.problem_id} of level {problem.level} is already taken by "
                f"{other.origin}: give every problem its own number"
            )
    several = len({problem.level for problem in problems}) > 1
    tasks = []
    for problem in problems:
        if several and problem.problem_id >= 1000:
            raise TaskError(
                f"{problem.origin}: problem id {problem.problem_id} is above 999, which ids of the form "
                "level * 1000 + N have no room for: load one level at a time"
            )
        task_id = problem.level * 1000 + problem.problem_id if several else problem.problem_id
        tasks.append(Task(task_id, problem.name, problem.level, problem.source))
    return sorted(tasks, key=lambda task: task.task_id)


def _read_folder(folder: Path) -> list[_Problem]:
    levels = _levels(folder)
    problems = [problem for level in levels for problem in _read_problem_files(level)]
    if not problems:
        hint = "name problem files N_Name.py"
        if any(levels[0].glob("*.parquet")):
            hint = "give a Parquet file by its own path"
        raise TaskError(f"{folder}: no problem files (N_Name.py) here or in level1, level2, ...: {hint}")
    return problems


def _levels(folder: Path) -> list[Path]:
    """Folders that problem files lie in: level1, level2, ... of a checkout, else the folder itself."""
    root = folder / "KernelBench" if (folder / "KernelBench").is_dir() else folder
    found = [child for child in sorted(root.iterdir()) if child.is_dir() and _LEVEL_FOLDER.fullmatch(child.name)]
    return found or [root]


def _problem_files(level: Path) -> list[Path]:
    return [path for path in sorted(level.glob("*.py")) if not path.name.startswith(("_", "."))]


def _read_problem_files(folder: Path) -> list[_Problem]:
    match = _LEVEL_FOLDER.fullmatch(folder.resolve().name)
    level = int(match[1]) if match else UNKNOWN_LEVEL
    problems = []
    for path in _problem_files(folder):
        name = _PROBLEM_FILE.fullmatch(path.name)
        if name is None:
            raise TaskError(f"{path}: not named like a problem file: rename it N_Name.py (N a number), or move it away")
        problems.append(_Problem(str(path), level, int(name[1]), path.stem, _read_text(path)))
    return problems


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror}): check that it is a readable file") from error
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaskError(f"{path}: line {line}: not UTF-8 text: save the file as UTF-8") from error


def _check_module(source: str, origin: str) -> None:
    # Python names no line for a null byte.
    if "\0" in source:
        line = source.count("\n", 0, source.index("\0")) + 1
        raise TaskError(f"{origin}: line {line}: not valid Python (null byte): correct it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source)
    except SyntaxError as error:
        raise TaskError(f"{origin}: line {error.lineno or 1}: not valid Python ({error.msg}): correct it") from error
    except (RecursionError, MemoryError) as error:
        raise TaskError(f"{origin}: nested too deeply to be parsed: simplify it") from error
    for name, kind in _DEFINITIONS.items():
        if not any(isinstance(node, kind) and getattr(node, "name", None) == name for node in tree.body):
            word = "class" if kind is ast.ClassDef else "function"
            raise TaskError(
                f"{origin}: defines no {word} {name} at the top level: a problem file defines Model, get_inputs and "
                "get_init_inputs"
            )


def _read_parquet(path: Path) -> list[_Problem]:
    # pyarrow is only needed for this kind of suite, and its import is slow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = [column for column in PARQUET_COLUMNS if column not in file.schema_arrow.names]
            rows = [] if missing else file.read(columns=list(PARQUET_COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise TaskError(
            f"{path}: not a whole Parquet file ({reason}): if it was truncated, fetch it again; problem files are "
            "loaded by giving their folder"
        ) from error
    if missing:
        raise TaskError(
            f"{path}: missing column {', '.join(missing)}: KernelBench's columns are {', '.join(PARQUET_COLUMNS)}"
        )
    if not rows:
        raise TaskError(f"{path}: has no rows: give a file with at least one problem")
    return [_problem_of_row(row, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]


def _problem_of_row(row: Mapping[str, Any], origin: str) -> _Problem:
    kinds: dict[str, type] = {"problem_id": int, "name": str, "code": str, "level": int}
    for column, kind in kinds.items():
        value = row[column]
        if not isinstance(value, kind) or isinstance(value, bool):
            want = "a whole number" if kind is int else "text"
            raise TaskError(f"{origin}: column {column} is {value!r}: it must be {want}")
        if kind is int and row[column] < 0:
            raise TaskError(f"{origin}: column {column} is {value}: it must not be negative")
    return _Problem(f"{origin} ({row['name']})", row["level"], row["problem_id"], row["name"], row["code"])


def split(tasks: Iterable[Task], subsets: Mapping[str, Iterable[int]]) -> dict[int, str]:
    """Every task's id with its subset: the subsets together are the evaluation tasks, all others are `train`."""
    owners = _owners(subsets)
    ids = [task.task_id for task in tasks]
    for task_id in owners.keys() - set(ids):
        raise TaskError(
            f"subset {owners[task_id]!r} names task {task_id!r}, which the suite does not have: correct it, or set "
            f"`tasks.subsets.{owners[task_id]}` to [] to do without this subset"
        )
    return {task_id: owners.get(task_id, TRAIN) for task_id in ids}


def _owners(subsets: Mapping[str, Iterable[int]]) -> dict[int, str]:
    owners: dict[int, str] = {}
    for subset, ids in subsets.items():
        if subset == TRAIN:
            raise TaskError(f"a subset cannot be called {TRAIN!r}, which names the other tasks: rename it")
        for task_id in ids:
            if task_id in owners:
                raise TaskError(f"task {task_id} is in subset {owners[task_id]!r} and in {subset!r}: keep it in one")
            owners[task_id] = subset
    return owners
