"""The content-addressed cache of evaluations: what was measured once is never measured again.

One small JSON file an evaluation, named by the SHA-256 of everything the result depends on. Files appear whole, by
rename, so that several writers and a kill at any moment do no harm: the last of two equal measurements stays.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expert_tail.artifacts import replacing

DEFAULT = Path("artifacts/cache")


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

    def get(self, name: str) -> dict[str, Any] | None:
        """The stored evaluation, or None: also for a file that something else has damaged."""
        try:
            found = json.loads(self._path(name).read_text())
        except (OSError, ValueError):
            found = None
        self.hits += found is not None
        self.misses += found is None
        return found

    def put(self, name: str, evaluation: dict[str, Any]) -> None:
        with replacing(self._path(name)) as temporary:
            temporary.write_text(json.dumps(evaluation))

    def entries(self) -> Iterator[Path]:
        return self.folder.glob("??/*.json")

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name[2:]}.json"

    def summary(self, prune_other: bool = False, prune_status: str | None = None) -> dict[str, Any]:
        """Entries, bytes and what they are of; with a prune option, after removing what it names."""
        newest: tuple[str, str] = ("", "")
        by_source: dict[tuple[str, str], int] = {}
        found = []
        for path in self.entries():
            try:
                value, size = json.loads(path.read_text()), path.stat().st_size
            except (OSError, ValueError):
                path.unlink(missing_ok=True)  # damaged: it would be measured again anyway
                continue
            found.append((path, value, size))
            newest = max(newest, (value["measured_at"], value["evaluator"]))
        removed = kept_bytes = 0
        statuses: dict[str, int] = {}
        for path, value, size in found:
            if (prune_other and value["evaluator"] != newest[1]) or value["status"] == prune_status:
                path.unlink(missing_ok=True)
                removed += 1
                continue
            kept_bytes += size
            statuses[value["status"]] = statuses.get(value["status"], 0) + 1
            source = (value["evaluator"], value["hardware"])
            by_source[source] = by_source.get(source, 0) + 1
        return {
            "folder": str(self.folder),
            "entries": sum(statuses.values()),
            "bytes": kept_bytes,
            "removed": removed,
            "statuses": dict(sorted(statuses.items())),
            "measured_by": [{"evaluator": e, "hardware": h, "entries": n} for (e, h), n in sorted(by_source.items())],
        }
