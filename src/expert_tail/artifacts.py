"""Parquet artifacts: one schema a kind, checked on write and on read; written to a temporary name, then renamed.

Every file carries its provenance (package version, git revision, library versions, hardware, the command's settings) in
the Parquet metadata. The meaning of a column is beside its field where the name does not say it.
"""

import functools
import json
import os
import platform
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expert_tail import __version__
from expert_tail.errors import UserError

_TOKENS = pa.list_(pa.int32())
_LOGPROBS = pa.list_(pa.float32())  # one per token, natural logarithm

_EVALUATION = [
    ("status", pa.string()),
    ("reason", pa.string()),  # why it was rejected, or incorrect
    ("error", pa.string()),  # what the candidate raised or the compiler said
    ("speedup", pa.float64()),  # median paired ratio baseline / candidate; 0 unless correct
    ("speedup_low", pa.float64()),  # 95 % interval of the speedup
    ("speedup_high", pa.float64()),
    ("kernel_ms", pa.float64()),
    ("baseline_ms", pa.float64()),
    ("trials", pa.int32()),  # timed pairs
    ("roofline_ms", pa.float64()),
    ("evaluator", pa.string()),  # digest of the evaluator's code and settings
    ("hardware", pa.string()),
    ("sandbox", pa.string()),  # layers that confined the candidate
    ("measured_at", pa.timestamp("us", tz="UTC")),
]

SCHEMAS: dict[str, pa.Schema] = {
    "tasks": pa.schema(
        [
            ("task_id", pa.int32()),
            ("name", pa.string()),
            ("level", pa.int32()),
            ("reference_source", pa.string()),
            ("source_sha256", pa.string()),
            ("split", pa.string()),  # train, or the name of the subset
        ]
    ),
    "rollouts": pa.schema(
        [
            ("step", pa.int32()),
            ("task_id", pa.int32()),
            ("rollout", pa.int32()),
            ("completion", pa.string()),
            ("candidate_sha256", pa.string()),
            ("token_ids", _TOKENS),
            ("sampled_logprobs", _LOGPROBS),  # log q: of the distribution that was sampled from (tempered)
            ("entropy", pa.float64()),  # mean entropy of that distribution over the tokens, nats
            ("reward", pa.float64()),
            ("advantage", pa.float64()),
            ("status", pa.string()),
            ("speedup", pa.float64()),
            ("speedup_low", pa.float64()),
        ]
    ),
    "samples": pa.schema(
        [
            ("task_id", pa.int32()),
            ("seed", pa.int64()),
            ("sample", pa.int32()),
            ("checkpoint", pa.string()),
            ("completion", pa.string()),
            ("candidate_sha256", pa.string()),
            ("token_ids", _TOKENS),
            ("logprobs", _LOGPROBS),  # at temperature 1
            ("tempered_logprobs", _LOGPROBS),  # at the sampling temperature
            ("n_tokens", pa.int32()),
            ("finish_reason", pa.string()),  # stop, length
        ]
    ),
    "evaluations": pa.schema(
        [
            ("task_id", pa.int32()),
            ("seed", pa.int64()),
            ("sample", pa.int32()),
            ("candidate_sha256", pa.string()),
            *_EVALUATION,
        ]
    ),
    "logprobs": pa.schema(
        [
            ("task_id", pa.int32()),
            ("seed", pa.int64()),
            ("sample", pa.int32()),
            ("scorer", pa.string()),
            ("nll", pa.float64()),  # -sum_t log p(token_t) at temperature 1, nats
            ("nll_mean", pa.float64()),
            ("n_tokens", pa.int32()),
        ]
    ),
    "selections": pa.schema(
        [
            ("task_id", pa.int32()),
            ("seed", pa.int64()),
            ("strategy", pa.string()),
            ("samples", pa.list_(pa.int32())),
            ("fast_1", pa.float64()),  # probability: 0 or 1, except for random-correct
            ("fast_1_confident", pa.float64()),
            ("speedup", pa.float64()),
            ("evaluations_used", pa.float64()),
        ]
    ),
}
EVALUATION_COLUMNS = [name for name, _ in _EVALUATION]


class ArtifactError(UserError):
    """An artifact is missing, truncated, or not of its schema; the message names the file and the remedy."""


def write(path: str | Path, kind: str, table: pa.Table | Sequence[dict[str, Any]], **notes: str) -> None:
    """Write rows or a table of `kind` to `path` whole or not at all; `notes` go into the metadata beside provenance."""
    schema = SCHEMAS[kind]
    try:
        if not isinstance(table, pa.Table):
            table = pa.Table.from_pylist([_complete(row, schema) for row in table], schema=schema)
        table = table.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ArtifactError(f"{path}: rows do not fit the schema of `{kind}`: {error}") from error
    table = table.replace_schema_metadata({"kind": kind, **provenance(), **notes})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read(path: str | Path, kind: str, columns: list[str] | None = None) -> pa.Table:
    """Read an artifact of `kind`; an `ArtifactError` says which file to remove or which rule to run."""
    with _readable(path):
        table = pq.read_table(path, columns=columns)
    schema = SCHEMAS[kind]
    for name in columns or schema.names:
        if name not in table.column_names:
            raise ArtifactError(
                f"{path} has no column `{name}` (not a `{kind}` artifact of this version); remove it and run again"
            )
        if table.schema.field(name).type != schema.field(name).type:
            found, wanted = table.schema.field(name).type, schema.field(name).type
            raise ArtifactError(f"{path}: column `{name}` is {found}, not {wanted}; remove the file and run again")
    return table


def notes(path: str | Path) -> dict[str, str]:
    """The metadata of an artifact: provenance and what its writer noted."""
    with _readable(path):
        found = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in found.items() if key != b"ARROW:schema"}


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Turn what Arrow says of a missing or damaged file into an `ArtifactError` with the remedy."""
    if not Path(path).exists():
        raise ArtifactError(f"{path} does not exist; run `snakemake {path}` to make it")
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} is not a readable Parquet file ({error}); remove it and run again") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`, else removed.

    A full disk or a folder that may not be written is a `UserError` that names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or permit writing there, then run again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _complete(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    missing = set(schema.names) - set(row)
    if missing or len(row) > len(schema.names):
        raise KeyError(f"columns {sorted(missing ^ (set(row) - set(schema.names)))}")
    return row


@functools.cache
def provenance() -> dict[str, str]:
    """What made an artifact: package version, git revision, Python and library versions, hardware."""
    libraries = ("torch", "transformers", "peft", "pyarrow", "numpy")
    versions = {name: metadata.version(name) for name in libraries if _installed(name)}
    return {
        "expert_tail": __version__,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "libraries": json.dumps(versions, sort_keys=True),
        "machine": f"{platform.node()} {platform.platform()} {os.cpu_count()} CPUs",
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git_revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
