"""The folder of expert solutions: ACTION/TASK_ID.py, below it nothing else. The Snakefile reads it, so imports are light."""

import hashlib
from pathlib import Path


def file_of(folder: Path, action: str, task_id: int) -> Path:
    return folder / action / f"{task_id}.py"


def digest_of(folder: Path) -> str:
    """Digest of all experts: what Snakemake watches, so that a touched file re-runs nothing."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*.py")):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
