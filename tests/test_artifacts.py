"""Artifacts: whole or not at all, and every way to read a damaged one says which file and what to do."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from expert_tail import artifacts

ROW = {"task_id": 1, "seed": 42, "sample": 0, "scorer": "base", "nll": 2.5, "nll_mean": 0.5, "n_tokens": 5}
READERS = [lambda path: artifacts.read(path, "logprobs"), artifacts.notes]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "seed=42.parquet"
    artifacts.write(path, "logprobs", [ROW], subset="subset1")
    return path


def test_rows_notes_and_provenance_come_back(artifact: Path) -> None:
    assert artifacts.read(artifact, "logprobs").to_pylist() == [ROW]
    assert {"subset": "subset1", "kind": "logprobs"}.items() <= artifacts.notes(artifact).items()
    assert "git_revision" in artifacts.notes(artifact)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("keep", [0, 3, 100, -100, -1])
def test_truncated_file_is_named_with_the_remedy(artifact: Path, read, keep: int) -> None:
    artifact.write_bytes(artifact.read_bytes()[:keep])
    with pytest.raises(artifacts.ArtifactError, match=r"seed=42\.parquet is not a readable Parquet file.*remove it"):
        read(artifact)


def test_a_flipped_bit_is_found_and_the_file_named(tmp_path: Path) -> None:
    path = tmp_path / "seed=42.parquet"
    artifacts.write(path, "logprobs", [ROW | {"sample": i, "nll": i / 7} for i in range(200)])
    whole = path.read_bytes()
    group = pq.read_metadata(path).row_group(0)
    for i in range(group.num_columns):
        chunk = group.column(i)
        start = chunk.data_page_offset if chunk.dictionary_page_offset is None else chunk.dictionary_page_offset
        last = start + chunk.total_compressed_size - 1  # of what the column's last page holds
        for bit in range(8):
            path.write_bytes(whole[:last] + bytes([whole[last] ^ 1 << bit]) + whole[last + 1 :])
            with pytest.raises(artifacts.ArtifactError, match=r"seed=42\.parquet is not a readable Parquet file"):
                artifacts.read(path, "logprobs")


def test_damage_to_a_published_file_leaves_its_source(tmp_path: Path) -> None:
    source, target = tmp_path / "state", tmp_path / "step=1"
    source.mkdir()
    (source / "adapter.safetensors").write_bytes(b"weights" * 100)
    artifacts.publish(source, target)
    with open(target / "adapter.safetensors", "rb+") as file:
        file.truncate(10)
    assert (source / "adapter.safetensors").read_bytes() == b"weights" * 100
    artifacts.publish(source, target)
    assert (target / "adapter.safetensors").read_bytes() == b"weights" * 100


@pytest.mark.parametrize("read", READERS)
def test_missing_file_is_named_with_the_command(tmp_path: Path, read) -> None:
    with pytest.raises(artifacts.ArtifactError, match=r"x\.parquet does not exist; run `snakemake"):
        read(tmp_path / "x.parquet")


def test_rows_that_do_not_fit_leave_the_old_file(artifact: Path) -> None:
    with pytest.raises(artifacts.ArtifactError, match="nll_mean"):
        artifacts.write(artifact, "logprobs", [{k: v for k, v in ROW.items() if k != "nll_mean"}])
    assert artifacts.read(artifact, "logprobs").num_rows == 1
    assert [file.name for file in artifact.parent.iterdir()] == [artifact.name]


def test_a_file_of_another_kind_and_a_note_that_is_not_there_are_named(artifact: Path) -> None:
    with pytest.raises(artifacts.ArtifactError, match=r"seed=42\.parquet has no column `status` \(not a `evaluations`"):
        artifacts.read(artifact, "evaluations", ["task_id", "status"])
    noted = artifacts.notes(artifact)
    assert noted.get("action") is None
    with pytest.raises(artifacts.ArtifactError, match=r"seed=42\.parquet does not note its action"):
        noted["action"]
