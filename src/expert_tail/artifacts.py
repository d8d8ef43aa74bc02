"""Parquet artifacts: one schema a kind, checked on write and on read; written to a temporary name, then renamed.

Every file carries its provenance (package version, git revision, library versions, hardware, the command's settings) in
the Parquet metadata. The meaning of a column is beside its field where the name does not say it.
"""

import functools
import json
import os
import platform
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

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
    "null_audit": pa.schema(
        [
            ("protocol", pa.string()),
            ("task_id", pa.int32()),
            ("repeat", pa.int32()),  # of the task's reference against itself
            *_EVALUATION,
        ]
    ),
    "headroom": pa.schema(
        [
            ("task_id", pa.int32()),
            ("name", pa.string()),
            ("split", pa.string()),
            ("expert", pa.string()),  # the action it is: forward_body, module; null where the task has none
            ("candidate_sha256", pa.string()),
            *_EVALUATION,
            ("ceiling", pa.float64()),  # largest speedup that physics allows: least baseline_ms / roofline_ms
            ("floor_ms", pa.float64()),  # what moving the task's data takes; null where an expert wins, or not known
            ("verdict", pa.string()),  # on the task: winnable, not winnable, unknown
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
_RUN = [pa.field("objective", pa.string()), pa.field("lr", pa.float64())]
SCHEMAS |= {
    "adapt_rollouts": pa.schema(
        [
            *SCHEMAS["rollouts"],  # advantage: with token_advantages their mean; null where they were not needed
            *_RUN,
            ("token_advantages", pa.list_(pa.float64())),  # null where all tokens have the same
            ("prompt_tokens", pa.int32()),
            ("context_tokens", pa.int32()),  # of the teacher's context; 0 without one
        ]
    ),
    "adapt_evaluations": pa.schema([("step", pa.int32()), *SCHEMAS["evaluations"], *_RUN]),
    # What a step took. The update is the one that led to this step's checkpoint; the teacher scored this step's rollouts.
    "accounts": pa.schema(
        [
            ("step", pa.int32()),
            *_RUN,
            ("rollouts", pa.int32()),
            ("fresh_rollouts", pa.int32()),
            ("known", pa.int32()),  # distinct candidates that had been measured before
            ("measured", pa.int32()),  # … and that were measured now
            ("loss", pa.float64()),  # of the update; null at step 0
            ("gradient_norm", pa.float64()),
            ("logprob_gap_mean", pa.float64()),  # |trainer - engine| over the sampled tokens of the update, nats
            ("logprob_gap_max", pa.float64()),
            ("student_tokens", pa.int64()),  # prompt and completion of every rollout, as the paper counts
            ("fresh_tokens", pa.int64()),
            ("teacher_tokens", pa.int64()),  # context and completion of every rollout that was scored in hindsight
            ("sampling_computed", pa.int64()),  # tokens that went through the model
            ("scoring_computed", pa.int64()),
            ("update_computed", pa.int64()),
            ("sampling_s", pa.float64()),
            ("evaluating_s", pa.float64()),
            ("scoring_s", pa.float64()),
            ("update_s", pa.float64()),
        ]
    ),
    "probes": pa.schema(
        [
            *SCHEMAS["logprobs"],
            ("nll_tail", pa.float64()),  # mean over the quarter of the tokens (rounded up) with the lowest log-probs
        ]
    ),
}
EVALUATION_COLUMNS = [name for name, _ in _EVALUATION]

ABANDONED_S = 24 * 3600  # a temporary file of another machine, whose processes cannot be asked after, is left over then


REMAKE = "remove it and run again"


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
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read(path: str | Path, kind: str, columns: list[str] | None = None, *, remedy: str | None = None) -> pa.Table:
    """Read an artifact of `kind`; an `ArtifactError` says which file to remove or which rule to run, or `remedy`."""
    wanted = SCHEMAS[kind]
    with _readable(path, remedy):
        found = pq.read_schema(path)
    for name in columns or wanted.names:
        if name not in found.names:
            raise ArtifactError(
                f"{path} has no column `{name}` (not a `{kind}` artifact of this version); {remedy or REMAKE}"
            )
        if found.field(name).type != wanted.field(name).type:
            types = f"{found.field(name).type}, not {wanted.field(name).type}"
            raise ArtifactError(f"{path}: column `{name}` is {types}; {remedy or REMAKE}")
    with _readable(path, remedy):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


class Notes(dict[str, str]):
    """The metadata of an artifact: provenance and what its writer noted. One that is not there is an `ArtifactError`."""

    def __init__(self, path: str | Path, found: dict[str, str]) -> None:
        super().__init__(found)
        self.path = path

    def __missing__(self, name: str) -> str:
        raise ArtifactError(f"{self.path} does not note its {name} (not an artifact of this version); {REMAKE}")


def notes(path: str | Path) -> Notes:
    with _readable(path):
        found = pq.read_schema(path).metadata or {}
    return Notes(path, {key.decode(): value.decode() for key, value in found.items() if key != b"ARROW:schema"})


@contextmanager
def _readable(path: str | Path, remedy: str | None = None) -> Iterator[None]:
    """Turn what Arrow says of a missing or damaged file into an `ArtifactError` with the remedy."""
    if not Path(path).exists():
        raise ArtifactError(f"{path} does not exist; {remedy or f'run `snakemake {path}` to make it'}")
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not a readable Parquet file ({error}); {remedy or REMAKE}") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`, else removed.

    What writers of `path` that were killed have left is removed first. A full disk or a folder that may not be written is
    a `UserError` that names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{os.getpid()}@{_machine()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"cannot write {path}: {os.strerror(error.errno)}; free space or permit writing there, then run again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def publish(source: Path, target: Path, *, without: Collection[str] = ()) -> None:
    """Copy the files of the folder `source` to `target`, each whole or not at all.

    No hard links: what damages the one file must leave the other, from which it is made again.
    """
    for file in sorted(source.iterdir()):
        if file.name in without:
            continue
        with replacing(target / file.name) as temporary:
            shutil.copyfile(file, temporary)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder`, with a `UserError`. The kernel ends this lock with the process, however it ends."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another run is using {folder}; wait until it has ended, or give another folder") from None
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {os.strerror(error.errno or 0)}; free space or permit writing there"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` whose writer is dead; one that is still writing keeps its own."""
    prefix = f".{path.name}."
    with os.scandir(path.parent) as entries:
        found = [entry for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(".tmp")]
    for entry in found:
        writer = re.fullmatch(r"[0-9a-f]{8}\.(\d+)@(.+)\.tmp", entry.name.removeprefix(prefix))
        if not writer:
            continue  # of another path, which begins alike
        with suppress(OSError):  # another process removes it, too
            age_s = time.time() - entry.stat().st_mtime
            if (not _is_alive(int(writer[1]))) if writer[2] == _machine() else age_s > ABANDONED_S:
                os.unlink(entry)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and is another user's
    return True


@functools.cache
def _machine() -> str:
    """Where a process id means this process: the host and, in containers that share its name, the process namespace."""
    return f"{platform.node()}-{os.stat('/proc/self/ns/pid').st_ino}"


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
