"""Choose by in-batch validation: the fast_1 of the rollouts that each checkpoint wrote."""

import shutil
from pathlib import Path

from expert_tail import artifacts
from expert_tail.best_of_adaptation.best import best_step
from expert_tail.progress import log

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "policy.json")


def run(evaluations: list[Path], output: Path) -> None:
    """Give the adapter of the best step to the folder `output`. Each file of `evaluations` lies in its step's folder."""
    scores: dict[int, float] = {}
    folders: dict[int, Path] = {}
    for path in evaluations:
        rows = artifacts.read(path, "adapt_evaluations", ["step", "status", "speedup"]).to_pylist()
        step = rows[0]["step"]
        scores[step] = sum(row["status"] == "correct" and row["speedup"] > 1 for row in rows) / len(rows)
        folders[step] = path.parent
    if sorted(scores) != list(range(len(evaluations))):
        raise artifacts.ArtifactError(
            f"{evaluations[0].parent.parent}: steps {sorted(scores)} are no trajectory from 0"
        )
    best = best_step([scores[step] for step in range(len(scores))])
    for name in ADAPTER_FILES:
        with artifacts.replacing(output / name) as temporary:
            shutil.copyfile(folders[best] / name, temporary)
    log(f"{output.parent.name}: step {best} of {len(scores) - 1} has the highest fast_1, {scores[best]:.3f}")
