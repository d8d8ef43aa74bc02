"""Snakemake's lock on a working folder outlives a Snakemake that was killed; this tells a stale one from one in use.

Every run holds a shared flock until it ends, however it ends. Who gets it exclusively knows that nobody else runs.
"""

import fcntl
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from expert_tail.errors import UserError

_held: list[TextIO] = []  # open until this process ends


def remove_stale_lock(folder: Path) -> None:
    """Remove Snakemake's lock files in `folder` (.snakemake) if no run of this workflow uses it; from now on this one does.

    Where the last run was on another machine they stay, since flock may not reach there, and Snakemake says what to do.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        where = folder.absolute().parent
        raise UserError(f"cannot write {where}: {os.strerror(error.errno or 0)}; permit writing there") from error
    try:
        file = _open(folder / "expert-tail.lock")
        _held.append(file)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # another run is using the folder: if Snakemake's lock stands in the way, it does so rightly
    except OSError:
        return  # a folder to look at only, or a file system without flock
    else:
        with suppress(OSError):
            _remove(folder / "locks", file)
    fcntl.flock(file, fcntl.LOCK_SH)


def _open(path: Path) -> TextIO:
    try:
        return open(path, "a+")
    except PermissionError:
        return open(path)  # another user's: enough to lock it


def _remove(locks: Path, file: TextIO) -> None:
    stale = list(locks.glob("*.lock"))
    file.seek(0)
    if stale and file.read() != platform.node():
        return
    for lock in stale:
        lock.unlink()
    file.truncate(0)
    file.write(platform.node())
    file.flush()
