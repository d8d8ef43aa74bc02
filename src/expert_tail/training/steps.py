"""The finished steps of a run on disk: each appears whole or not at all, so that a killed run goes on after its last one.

What only the next update needs is kept of the last two steps: if something else damages the last, the one before it is there.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import torch
from pydantic import BaseModel
from safetensors import SafetensorError

from expert_tail import artifacts
from expert_tail.code_digest import code_digest
from expert_tail.errors import UserError
from expert_tail.policy.load import Policy
from expert_tail.policy.weights import check_weights

OPTIMIZER = "optimizer.pt"


class Steps:
    """The steps below `folder`, numbered from 0, one folder each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, step: int) -> Path:
        return self.folder / f"step={step:04d}"

    def finished(self) -> int:
        """Steps finished without a gap from the first."""
        n = 0
        while self[n].is_dir():
            n += 1
        return n

    def read(self, step: int, name: str, kind: str) -> pa.Table:
        """A table of a finished step; a `UserError` says what to do where it is damaged."""
        return artifacts.read(self[step] / f"{name}.parquet", kind, remedy=self.remedy(step))

    def remedy(self, step: int) -> str:
        """What to do about a damaged file of a finished step."""
        if step and (self[step - 1] / OPTIMIZER).exists():
            return f"remove {self[step]} and run again, which goes on after the step before it"
        return f"remove {self.folder} and run again, which begins anew; no candidate is measured again"

    @contextmanager
    def making(self, step: int) -> Iterator[Path]:
        """Yield a folder to fill; it becomes the step's when the block ends, and is removed if the block fails.

        A step that is there already is replaced. A full disk is a `UserError`.
        """
        unfinished = self.folder / f".{self[step].name}.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed while it saved this step
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            shutil.rmtree(self[step], ignore_errors=True)
            os.rename(unfinished, self[step])
        except SafetensorError as error:  # what a full disk is to safetensors
            raise UserError(f"cannot write {unfinished}: {error}; free space, then run again to go on") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    with artifacts.replacing(folder / OPTIMIZER) as temporary, open(temporary, "wb") as file:
        torch.save(optimizer.state_dict(), file)  # to a path, a full disk would be a RuntimeError without a reason


def restore(policy: Policy, optimizer: torch.optim.Optimizer, steps: Steps, step: int, adapter: Path) -> None:
    """Put weights and optimiser state back into place as they were after `step`; the weights lie in the folder `adapter`.

    A file of them that is not whole is a `UserError`.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    check_weights(adapter, steps.remedy(step))
    set_peft_model_state_dict(policy.model, load_file(adapter / "adapter_model.safetensors"))
    kept = steps[step] / OPTIMIZER
    try:
        optimizer.load_state_dict(torch.load(kept, weights_only=True))
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        problem = f"is missing or damaged ({type(error).__name__})"
        raise UserError(f"{kept} {problem}; {steps.remedy(step)}") from error


def run_digest(stage: str, *parts: BaseModel | Path | str) -> str:
    """Names a run by all that shapes it: the code of `stage` less the evaluator's, settings, and what files hold.

    A folder stands for the policy or adapter in it. The evaluator's code is left out because its changes do not retrigger
    training; who wants them to gives its digest as a part.
    """
    texts = [code_digest(stage, without=["evaluator"])]
    for part in parts:
        if isinstance(part, Path):
            texts.append(hashlib.sha256(_contents(part)).hexdigest())
        else:
            texts.append(part if isinstance(part, str) else part.model_dump_json())
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _contents(path: Path) -> bytes:
    """What makes a difference: of a policy its files, of an artifact its rows; not when and where they were made."""
    named = [path / name for name in ("provenance.json", "adapter_model.safetensors")]
    found = path if path.is_file() else next((file for file in named if file.exists()), None)
    if found is None:
        raise UserError(f"{path} is not there, or holds neither a policy nor an adapter; run what makes it")
    if found.name == "provenance.json":
        try:
            return json.dumps(json.loads(found.read_text())["files"], sort_keys=True).encode()
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{found} is damaged ({error!r}); remove the folder and run again what made it") from error
    if found.suffix == ".parquet":
        return json.dumps(artifacts.read(found, "tasks").to_pylist()).encode()
    return found.read_bytes()
