"""Progress of long work: a bar on a terminal, plain lines elsewhere (batch logs, CI) and in the log file. All on stderr."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from expert_tail.errors import UserError

PLAIN_INTERVAL_S = 10.0
BAR_WIDTH = 20  # leaves room for figures on 80 columns

_console = Console(stderr=True, highlight=False, soft_wrap=True)
_log_file: TextIO | None = None


class Advance(Protocol):
    def __call__(self, step: int = 1, **figures: str | float) -> None:
        """Report `step` more units done, with the current figures (for example `reward=0.41`)."""


def log_to(path: Path) -> None:
    """From now on, keep every message and plain progress in `path` too."""
    global _log_file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _log_file = open(path, "w", buffering=1)  # noqa: SIM115 (open for the life of the process)
    except OSError as error:
        raise UserError(
            f"cannot write the log {path}: {error.strerror}; permit writing there, or free space"
        ) from error


def is_first_process() -> bool:
    """False in the others of several processes that torchrun has started: they keep quiet."""
    return os.environ.get("RANK", "0") == "0"


def log(message: str, *, always: bool = False) -> None:
    if not (always or is_first_process()):
        return
    if _console.is_terminal:
        _console.print(message, markup=False)
    else:
        print(message, file=sys.stderr, flush=True)
    log_quietly(message)


def log_quietly(message: str) -> None:
    """To the log file alone. Where that cannot be written any more, the log ends and the work goes on."""
    global _log_file
    if not _log_file:
        return
    try:
        print(message, file=_log_file)
    except OSError as error:
        ended, _log_file = _log_file, None
        with suppress(OSError):
            ended.close()  # now, since at exit the interpreter would complain of it
        log(f"the log {ended.name} ends here: {error.strerror}")


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Yield the function that reports progress on `total` units of work called `title`."""
    if not (_console.is_terminal and is_first_process()):
        yield _lines(title, total, log)
        return
    columns = [TextColumn("{task.description}", table_column=Column(no_wrap=True)), BarColumn(BAR_WIDTH)]
    columns += [MofNCompleteColumn(table_column=Column(no_wrap=True)), TimeElapsedColumn(), TimeRemainingColumn()]
    columns.append(
        TextColumn("{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    )
    quiet = _lines(title, total, log_quietly)
    with Progress(*columns, console=_console, expand=True) as bar:
        task = bar.add_task(title, total=total, figures="")

        def advance(step: int = 1, **figures: str | float) -> None:
            bar.advance(task, step)
            if figures:
                bar.update(task, figures=_text(figures))
            quiet(step, **figures)

        yield advance


def _lines(title: str, total: int, write: Callable[[str], None]) -> Advance:
    start = last = time.monotonic()
    done = 0

    def advance(step: int = 1, **figures: str | float) -> None:
        nonlocal done, last
        done += step
        now = time.monotonic()
        if figures or done >= total or now - last >= PLAIN_INTERVAL_S:
            last = now
            write(f"{title}: {done}/{total} after {now - start:.0f} s  {_text(figures)}".rstrip())

    return advance


def _text(figures: dict[str, str | float]) -> str:
    return "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
