"""The content-addressed cache of evaluations: what was measured once is never measured again.

One small JSON file an evaluation, named by the SHA-256 of everything the result depends on. Files appear whole, by
rename, so that several writers and a kill at any moment do no harm: the last of two equal measurements stays. Beside them
lies what candidates compiled, see `build`.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expert_tail.artifacts import replacing
from expert_tail.errors import UserError
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.settings import nearest

DEFAULT = Path("artifacts/cache")
BUILDS = "builds"
LOOKUPS, LOOKUP = "lookups.txt", re.compile(r"\d+ \d+")


def cache_folder() -> Path:
    """`EXPERT_TAIL_CACHE`, or artifacts/cache/ below the working folder."""
    return Path(os.environ.get("EXPERT_TAIL_CACHE") or DEFAULT)


def key(**parts: str) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass
class Cache:
    folder: Path
    hits: int = 0
    misses: int = 0

    def get(self, name: str) -> Evaluation | None:
        """The stored evaluation, or None: also for a file that something else has damaged."""
        found = _read(self._path(name))
        self.hits += found is not None
        self.misses += found is None
        return found

    def late(self, name: str) -> Evaluation | None:
        """What another process stored since `get` missed it; counts as a hit instead of that miss."""
        if found := _read(self._path(name)):
            self.hits, self.misses = self.hits + 1, self.misses - 1
        return found

    def put(self, name: str, evaluation: Evaluation) -> None:
        with replacing(self._path(name)) as temporary:
            temporary.write_text(json.dumps(evaluation.to_json()))

    def note(self, asked: int, measured: int) -> None:
        """Remember how many evaluations were asked for, and how many of them had to be measured."""
        with contextlib.suppress(OSError), open(self.folder / LOOKUPS, "a") as file:
            file.write(f"{asked} {measured}\n")  # one short line; machines that share the folder may lose each other's

    def _noted(self) -> tuple[int, int]:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = (self.folder / LOOKUPS).read_text().splitlines()
        pairs = [tuple(map(int, line.split())) for line in lines if LOOKUP.fullmatch(line)]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def entries(self) -> Iterator[Path]:
        return self.folder.glob("??/*.json")

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name[2:]}.json"

    def summary(
        self, keep: Sequence[str] = (), prune_status: str | None = None, prune_compiled: bool = False
    ) -> dict[str, Any]:
        """Entries, bytes and what they are of; with a prune option, after removing what it names.

        `keep`: evaluators, as `measured_by` names them; what others measured is removed. `prune_compiled`: remove all
        compiled code, which is made again where it is needed. Raises `UserError` where an evaluator of `keep` has measured
        nothing here.
        """
        found = []
        for path in self.entries():
            if (value := _read(path)) is None:
                path.unlink(missing_ok=True)  # damaged: it would be measured again anyway
            else:
                found.append((path, value))
        known = {value.evaluator for _, value in found}
        for name in keep:
            if name not in known:
                raise UserError(f"{self.folder} has nothing that evaluator {name} measured{nearest(name, known)}")
        removed = kept_bytes = 0
        statuses: Counter[str] = Counter()
        sources: Counter[tuple[str, str]] = Counter()
        for path, value in found:
            if (keep and value.evaluator not in keep) or value.status == prune_status:
                path.unlink(missing_ok=True)
                removed += 1
                continue
            with contextlib.suppress(FileNotFoundError):  # another process prunes, too
                kept_bytes += path.stat().st_size
            statuses[value.status] += 1
            sources[value.evaluator, value.hardware] += 1
        if prune_compiled:
            shutil.rmtree(self.folder / BUILDS, ignore_errors=True)
        asked, measured = self._noted()
        return {
            "folder": str(self.folder),
            "asked": asked,
            "measured": measured,
            "hit_rate": round(1 - measured / asked, 4) if asked else None,
            "entries": sum(statuses.values()),
            "bytes": kept_bytes,
            "compiled": sum(1 for _ in (self.folder / BUILDS).glob("??/*")),
            "compiled_bytes": sum(_sizes(self.folder / BUILDS)),
            "removed": removed,
            "statuses": dict(sorted(statuses.items())),
            "measured_by": [{"evaluator": e, "hardware": h, "entries": n} for (e, h), n in sorted(sources.items())],
        }


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            yield path.lstat().st_size if path.is_file() else 0


def _read(path: Path) -> Evaluation | None:
    try:
        return Evaluation.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return None
