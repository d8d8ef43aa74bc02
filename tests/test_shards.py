"""Evaluation in shards: every distinct candidate in one of them, evenly, and back together as if it had been one job."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expert_tail import artifacts
from expert_tail.artifacts import ArtifactError
from expert_tail.compile_and_time.shard import Shard
from expert_tail.errors import UserError
from expert_tail.evaluator.cache import Cache
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.gather_evaluations.stage import run

CANDIDATES = st.lists(st.tuples(st.integers(1, 5), st.text("0123456789abcdef", min_size=1, max_size=2)))


@given(CANDIDATES, st.integers(1, 8), st.randoms())
def test_each_distinct_candidate_is_in_one_shard_and_shards_are_even(candidates, of, random) -> None:
    shards = [Shard(number, of).holds(candidates) for number in range(1, of + 1)]
    assert all(sum(held) == 1 for held in zip(*shards, strict=True))  # each sample is in one
    parts = [{c for c, is_held in zip(candidates, held, strict=True) if is_held} for held in shards]
    assert sum(map(len, parts)) == len(set(candidates))  # so is each candidate
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for task in {task for task, _ in candidates}:
        counts = [sum(t == task for t, _ in part) for part in parts]
        assert max(counts) - min(counts) <= 1
    shuffled = random.sample(candidates, len(candidates))
    assert {c for c, h in zip(shuffled, Shard(1, of).holds(shuffled), strict=True) if h} == parts[0]


@pytest.mark.parametrize("text", ["", "0-of-3", "4-of-3", "1 of 3", "1-of-3x", "-1-of-3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="2-of-3") as refused:
        Shard.parse(text)
    assert refused.value.is_usage


EVALUATED = dict.fromkeys(artifacts.EVALUATION_COLUMNS) | {"status": "correct", "hardware": "cpu: A", "speedup": 1.5}


def row(sample: int, candidate: str, **columns) -> dict:
    return {"task_id": 4, "seed": 42, "sample": sample, "candidate_sha256": candidate} | columns


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Four samples of three candidates."""
    drawn = dict(checkpoint="", completion="", token_ids=[], logprobs=[], tempered_logprobs=[], n_tokens=0)
    rows = [row(n, c, finish_reason="stop", **drawn) for n, c in enumerate("abca")]
    artifacts.write(tmp_path / "samples.parquet", "samples", rows, subset="one")
    return tmp_path / "samples.parquet"


def write_shard(folder: Path, number: int, rows: list[dict], settings: str = "same") -> Path:
    path = folder / f"{number}-of-2.parquet"
    spent = {"seconds": "1.5", "measured": str(len({row["candidate_sha256"] for row in rows}))}
    artifacts.write(path, "evaluations", rows, subset="one", settings=settings, **spent)
    return path


def evaluated(sample: int, candidate: str, **columns) -> dict:
    return row(sample, candidate, **(EVALUATED | columns))


def test_shards_come_together_in_the_order_of_the_samples(samples: Path, tmp_path: Path) -> None:
    first = [evaluated(0, "a"), evaluated(2, "c", status="crash"), evaluated(3, "a")]
    shards = [write_shard(tmp_path, 1, first), write_shard(tmp_path, 2, [evaluated(1, "b")])]
    run(samples, shards[::-1], tmp_path / "out.parquet")
    table = pl.DataFrame(artifacts.read(tmp_path / "out.parquet", "evaluations"))
    assert table["sample"].to_list() == [0, 1, 2, 3]
    assert table["status"].to_list() == ["correct", "correct", "crash", "correct"]
    noted = {"subset": "one", "settings": "same", "seconds": "3.0", "measured": "3"}
    assert noted.items() <= artifacts.notes(tmp_path / "out.parquet").items()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([], "lack sample 1 of task 4; remove all shards"),
        ([evaluated(1, "b"), evaluated(2, "c")], "have twice sample 2 of task 4"),
        ([evaluated(1, "x")], "lack sample 1 of task 4"),
        ([evaluated(1, "b"), evaluated(9, "b")], "other samples; they have sample 9"),
    ],
)
def test_shards_that_do_not_fit_the_samples_are_refused(samples: Path, tmp_path: Path, second, message) -> None:
    first = write_shard(tmp_path, 1, [evaluated(0, "a"), evaluated(2, "c"), evaluated(3, "a")])
    with pytest.raises(ArtifactError, match=message):
        run(samples, [first, write_shard(tmp_path, 2, second)], tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_shards_of_other_settings_are_refused(samples: Path, tmp_path: Path) -> None:
    shards = [write_shard(tmp_path, 1, [evaluated(0, "a")]), write_shard(tmp_path, 2, [evaluated(1, "b")], "others")]
    with pytest.raises(ArtifactError, match=r"made with 2 settings; remove all shards"):
        run(samples, shards, tmp_path / "out.parquet")


def test_mixed_hardware_is_said(samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_shard(tmp_path, 1, [evaluated(0, "a"), evaluated(2, "c"), evaluated(3, "a")])
    second = write_shard(tmp_path, 2, [evaluated(1, "b", hardware="cpu: B")])
    run(samples, [first, second], tmp_path / "out.parquet")
    assert "different hardware (column `hardware`): cpu: A, cpu: B" in capsys.readouterr().err


def test_what_another_process_stored_meanwhile_is_a_hit(tmp_path: Path) -> None:
    mine, other = Cache(tmp_path), Cache(tmp_path)
    assert mine.get("0123") is None
    assert mine.late("0123") is None
    other.put("0123", Evaluation("crash", "digest", "cpu", sandbox=""))
    assert mine.late("0123") is not None
    assert (mine.hits, mine.misses) == (1, 0)
