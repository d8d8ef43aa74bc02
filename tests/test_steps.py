"""What makes a training run another run: its inputs' contents, not when and where they were made."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from expert_tail import artifacts
from expert_tail.errors import UserError
from expert_tail.training.steps import run_digest

TASK = {"task_id": 1, "name": "one", "level": 1, "split": "train", "reference_source": "pass"}


def tasks(path: Path, **changes: object) -> Path:
    schema = artifacts.SCHEMAS["tasks"]
    artifacts.write(path, "tasks", [{name: None for name in schema.names} | TASK | changes])
    return path


def policy(path: Path, **changes: object) -> Path:
    path.mkdir()
    provenance = {"fetched_at": "2026-01-01", "files": {"model.safetensors": {"sha256": "ab", "bytes": 1}}}
    (path / "provenance.json").write_text(json.dumps(provenance | changes))
    return path


def test_a_run_is_named_by_what_its_inputs_hold(tmp_path: Path) -> None:
    one, again = tasks(tmp_path / "one.parquet"), tasks(tmp_path / "again.parquet")
    table = pq.read_table(again)
    noted = (table.schema.metadata or {}) | {b"git_revision": b"another"}
    pq.write_table(table.replace_schema_metadata(noted), again)
    assert one.read_bytes() != again.read_bytes()
    assert run_digest("rlvr_train", one) == run_digest("rlvr_train", again)
    assert run_digest("rlvr_train", one) != run_digest(
        "rlvr_train", tasks(tmp_path / "2.parquet", reference_source="x")
    )


def test_a_policy_is_its_files(tmp_path: Path) -> None:
    first = run_digest("rlvr_train", policy(tmp_path / "a"))
    assert run_digest("rlvr_train", policy(tmp_path / "b", fetched_at="2026-02-02")) == first
    other = {"model.safetensors": {"sha256": "cd", "bytes": 1}}
    assert run_digest("rlvr_train", policy(tmp_path / "c", files=other)) != first


@pytest.mark.parametrize("text", ["", '{"files": {', "{}", "[]"])
def test_a_damaged_provenance_is_named(tmp_path: Path, text: str) -> None:
    (policy(tmp_path / "a") / "provenance.json").write_text(text)
    with pytest.raises(UserError, match=r"a/provenance\.json is damaged .*remove the folder"):
        run_digest("rlvr_train", tmp_path / "a")
