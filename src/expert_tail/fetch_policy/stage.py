"""Makes `artifacts/policy/{name}/`: weights, tokenizer, generation config, chat template, and provenance.json last.

The folder is built beside its place and renamed when it is complete, so that a killed run leaves nothing that looks
finished; the next run removes what it left.
"""

import datetime
import json
import os
import platform
import shutil
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from expert_tail.errors import UserError
from expert_tail.fetch_policy.sources import Origin, fetch, sha256_of
from expert_tail.policy.settings import FetchSettings
from expert_tail.policy.weights import check_weights
from expert_tail.progress import log

PROVENANCE = "provenance.json"
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "huggingface-hub")


def run(settings: FetchSettings, output: Path) -> None:
    """Fetch `settings.source` into the folder of `output`, which is its provenance.json."""
    folder = Path(output).absolute().parent
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            _fetch(settings, folder)
    except OSError as error:
        if error.errno is None:
            raise
        name = error.filename or folder
        raise UserError(f"cannot write {name}: {error.strerror}; free space or permit writing there") from error
    log(f"fetch_policy: {folder} is ready")


def _fetch(settings: FetchSettings, folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        origin = fetch(settings, temporary)
        facts = _check(settings.source, temporary)
        _make_durable(temporary)
        provenance = json.dumps(_provenance(settings, origin, facts, temporary), indent=1)
        (temporary / PROVENANCE).write_text(provenance + "\n")
        _replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    if folder.exists():
        old = folder.with_name(f"{new.name.removesuffix('.tmp')}.old.tmp")
        os.replace(folder, old)
        os.replace(new, folder)
        shutil.rmtree(old)
    else:
        os.replace(new, folder)


def _make_durable(folder: Path) -> None:
    for file in folder.iterdir():
        if file.stat().st_nlink == 1:  # a linked file is another's, and on disk already
            file.chmod(0o644)
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())


def _check(source: str, folder: Path) -> dict[str, Any]:
    """Refuse what is no chat-tuned causal LM; else what the provenance says about the model."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    weights = check_weights(folder, "fetch it again")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{source} has a config or tokenizer that transformers cannot load: {error}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(f"{source} is a `{config.model_type}` model, not a causal language model; name another source")
    if not tokenizer.chat_template:
        raise UserError(f"{source} has no chat template; take the instruction-tuned variant of the model")
    if not (folder / "generation_config.json").exists():
        GenerationConfig.from_model_config(config).save_pretrained(folder)
    with init_empty_weights():
        model: Any = AutoModelForCausalLM.from_config(config)
    model.tie_weights()  # a tied head is counted once
    return {
        "model_type": config.model_type,
        "parameters": model.num_parameters(),
        "dtype": str(config.dtype).removeprefix("torch."),
        "weights": [file.name for file in weights],
    }


def _provenance(settings: FetchSettings, origin: Origin, facts: dict[str, Any], folder: Path) -> dict[str, Any]:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return {
        "source": settings.source,
        "version": origin.version,
        "license": origin.license,
        **({"wheel": origin.wheel} if origin.wheel else {}),
        **facts,
        "files": {file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size} for file in files},
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        "fetched_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
