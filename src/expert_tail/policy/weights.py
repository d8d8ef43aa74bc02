"""What fetching and loading a policy share: checking that weight files are whole, and quiet while they are read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expert_tail.errors import UserError

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def check_weights(folder: Path, remedy: str) -> list[Path]:
    """The folder's safetensors files; a `UserError` names one that is missing or truncated and ends with `remedy`.

    Sizes are compared with the headers; no tensor is read.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{index} is not an index of weight files ({error!r}); {remedy}") from error
        files = [folder / name for name in names]
    else:
        single = folder / "model.safetensors"
        files = [single] if single.exists() else sorted(folder.glob("*.safetensors"))
        if not files:
            raise UserError(f"{folder} holds no weights (model.safetensors is missing); {remedy}")
    for file in files:
        if not file.exists():
            raise UserError(f"{file} is missing ({index.name} lists it); {remedy}")
        if problem := _problem(file):
            raise UserError(f"{file} {problem}; {remedy}")
    return files


def _problem(file: Path) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
            return f"is truncated or no safetensors file ({size} bytes)"
        try:
            header = json.loads(stream.read(length))
            end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "has no readable safetensors header"
    wanted = 8 + length + end
    return None if size == wanted else f"is truncated or damaged: {size} bytes, its header says {wanted}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, which would run through ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
