"""Compiling a candidate ahead of its evaluation: inline C++ and CUDA, Triton kernels.

Compilers are programs, and a worker may start none. So the candidate is first imported and run once, on inputs drawn for
nobody, in a worker that may: confined like the others but for that, and writing into its own folder alone. What the
compilers leave there is stored under all that it depends on, and each worker of the candidate gets a copy.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from expert_tail.evaluator.compilers import FOLDER
from expert_tail.evaluator.process import Worker, WorkerFailure

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
        parts = [source, reference, self.hardware, *versions]
        return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def find(self, key: str) -> Path | None:
        """What was compiled; raises the `WorkerFailure` that building ended with."""
        if key in self.failures:
            raise self.failures[key]
        path = self.folder / key[:2] / key[2:]
        return path if path.is_dir() else None

    def build(self, key: str, start: Callable[[], Worker], run: Callable[[Worker], None]) -> None:
        """Have a worker of `start` build by `run`, and keep what it leaves, or the failure."""
        if key in self.failures or self.find(key):
            return
        worker = start()
        try:
            run(worker)
            self._keep(worker.scratch / FOLDER, self.folder / key[:2] / key[2:])
        except WorkerFailure as failure:
            self.failures[key] = failure
        finally:
            worker.close()

    def _keep(self, built: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
        try:
            shutil.copytree(built, unfinished, ignore=shutil.ignore_patterns("tmp", "*.o"))
            with contextlib.suppress(OSError):  # another process was quicker
                os.rename(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
