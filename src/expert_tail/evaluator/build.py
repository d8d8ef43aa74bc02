"""Compiling a candidate ahead of its evaluation: inline C++ and CUDA, Triton kernels, what torch.compile makes.

Compilers are programs, and a worker may start none. So the candidate is first imported and run once, on inputs drawn for
nobody, in a worker that may: confined like the others but for that, and writing into its own folder alone. What the
compilers leave there is stored under all that it depends on, and each worker of the candidate gets a copy.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from expert_tail.evaluator.compilers import FOLDER
from expert_tail.evaluator.process import BUSY_DEVICE, Worker, WorkerFailure

MAX_FILES, MAX_BYTES, MAX_DEPTH, MAX_PATH = 2000, 256 << 20, 16, 1000  # of what a candidate's compilers leave
# Errors of reading what it leaves that are its own doing, and no fault of this machine.
_THEIRS = {errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR}
FORMAT = "3"  # of what is kept, and how it is found again: `compilers.use_folder`
_COMPILES = re.compile(r"\bload_inline\b|\btriton\b|\btorch\.compile\b")


def needs_build(source: str) -> bool:
    """Whether a candidate compiles anything. One that hides it finds no compiler, and fails."""
    return _COMPILES.search(source) is not None


@dataclass
class Builds:
    """Compiled code of candidates, on disk. Threads may build several at a time, each candidate once."""

    folder: Path
    hardware: str
    failures: dict[str, WorkerFailure] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # what went wrong in the rehearsal, where something did

    def key(self, source: str, reference: str) -> str:
        versions = [str(torch.__version__)]
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(metadata.version("triton"))
        parts = [FORMAT, source, reference, self.hardware, *versions]
        return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def find(self, key: str) -> Path | None:
        """What was compiled; raises the `WorkerFailure` that building ended with."""
        if key in self.failures:
            raise self.failures[key]
        path = self.folder / key[:2] / key[2:]
        return path if path.is_dir() else None

    def build(self, key: str, start: Callable[[], Worker], run: Callable[[Worker], None]) -> None:
        """Have a worker of `start` build by `run`, and keep what it leaves, or the failure."""
        if key in self.failures and self.failures[key].reason == BUSY_DEVICE:
            del self.failures[key]
        if key in self.failures or self.find(key):
            return
        worker = start()
        try:
            run(worker)
            worker.kill()  # it may still be changing what is to be kept
            self._keep(worker.scratch / FOLDER, self.folder / key[:2] / key[2:])
        except WorkerFailure as failure:
            self.failures[key] = failure
        finally:
            worker.close()

    def _keep(self, built: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
        try:
            try:
                _copy(built, unfinished)
            except OSError as error:
                if error.errno not in _THEIRS:
                    raise
                raise WorkerFailure(
                    "compile_error", f"what it leaves where it compiles cannot be read: {error}"
                ) from None
            with contextlib.suppress(OSError):  # another process was quicker
                os.rename(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy what was compiled: regular files alone, never what a link leads to, and not more than `MAX_FILES` and `MAX_BYTES`.

    The candidate made this folder. Raises `WorkerFailure` for too much.
    """
    count = size = 0
    target.mkdir()
    if not source.is_dir():
        return
    for folder, subfolders, names, at in os.fwalk(source, follow_symlinks=False):
        below = Path(folder).relative_to(source)
        if len(str(below)) > MAX_PATH:
            raise WorkerFailure(
                "compile_error", f"it leaves paths of more than {MAX_PATH} characters where it compiles"
            )
        (target / below).mkdir(exist_ok=True)
        subfolders[:] = [name for name in subfolders if name != "tmp"] if len(below.parts) < MAX_DEPTH else []
        count += len(subfolders)
        for name in names:
            if name.endswith(".o") or count > MAX_FILES or (content := _regular(name, at, MAX_BYTES - size)) is None:
                continue
            count, size = count + 1, size + len(content)
            if size <= MAX_BYTES:
                (target / below / name).write_bytes(content)
        if count > MAX_FILES or size > MAX_BYTES:
            limits = f"{MAX_FILES} files and folders, or {MAX_BYTES >> 20} MiB"
            raise WorkerFailure("compile_error", f"it leaves more than {limits} where it compiles")


def _regular(name: str, folder: int, most: int) -> bytes | None:
    """What a file in the open `folder` holds, or a byte more than `most` of it; None for what is no regular file."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:  # a link, or gone
        return None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        return None
    with open(opened, "rb") as file:
        return file.read(most + 1)
