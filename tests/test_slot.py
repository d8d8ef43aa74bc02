"""Slots on a machine without network: what is staged arrives whole, what is kept goes on, and the least important is left."""

import base64
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
import types
from datetime import datetime
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slot, stage = script("slot"), script("stage")


def filled(folder: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    """Files that no compressor makes smaller."""
    contents = {name: random.Random(name).randbytes(size) for name, size in sizes.items()}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return contents


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


RUN = {
    "results/table3.csv": 1_000,
    "artifacts/policy/tiny/provenance.json": 100,
    "artifacts/policy/tiny/model.safetensors": 90_000,
    "artifacts/cache/0a/entry.json": 2_000,
    "artifacts/cache/builds/kernel.so": 90_000,
    "artifacts/rlvr/state/step=0003/optimizer.pt": 50_000,
    "artifacts/adapt/run/step=1/adapter_model.safetensors": 200_000,
    ".snakemake/metadata/YXJ0": 300,
    ".snakemake/log/today.log": 300,
}


def test_what_is_kept_comes_back_with_its_times(tmp_path: Path) -> None:
    run = tmp_path / "run"
    contents = filled(run, RUN)
    for name in contents:
        os.utime(run / name, (1_700_000_000, 1_700_000_000))
    assert slot.pack(slot.kept_files(run), run, tmp_path / "out", part_bytes=30_000, parts=100) == []
    parts = sorted((tmp_path / "out").iterdir())
    assert len(parts) > 5
    assert all(part.stat().st_size <= 30_000 for part in parts)
    slot.unpack(parts, tmp_path / "again")
    left = {"artifacts/policy/tiny/model.safetensors", "artifacts/cache/builds/kernel.so", ".snakemake/log/today.log"}
    assert contents_of(tmp_path / "again") == {name: data for name, data in contents.items() if name not in left}
    assert all(path.stat().st_mtime == 1_700_000_000 for path in (tmp_path / "again").rglob("*") if path.is_file())


def test_the_least_important_is_left_out_where_room_is_short(tmp_path: Path) -> None:
    filled(tmp_path / "run", RUN)
    left_out = slot.pack(slot.kept_files(tmp_path / "run"), tmp_path / "run", tmp_path / "out", 70_000, parts=2)
    assert left_out == ["artifacts/adapt/run/step=1/adapter_model.safetensors"]
    assert sum(part.stat().st_size for part in (tmp_path / "out").iterdir()) <= 140_000


def test_state_is_kept_until_its_job_has_ended(tmp_path: Path) -> None:
    names = [f"artifacts/{job}/state/0a/step=0001/optimizer.pt" for job in ("rlvr", "adapt/one", "adapt/two")]
    outputs = ["artifacts/rlvr/rollouts.parquet", "artifacts/adapt/one/step=0/rollouts.parquet"]
    # What the job of `two` has put into its place so far has no record: it was ended in the midst of it.
    begun = "artifacts/adapt/two/step=0/rollouts.parquet"
    filled(tmp_path, dict.fromkeys([*names, *outputs, begun], 10))
    for output in outputs:
        filled(tmp_path, {f".snakemake/metadata/{base64.urlsafe_b64encode(output.encode()).decode()}": 10})
    kept = slot.kept_files(tmp_path, without=["artifacts/adapt/one/*"])
    assert set(kept) - {name for name in kept if name.startswith(".snakemake")} == {names[2], outputs[0], begun}


def test_a_wheel_larger_than_a_part_is_put_together_again(tmp_path: Path) -> None:
    contents = filled(tmp_path / "staged", {"small.txt": 1_000, "large.txt": 25_000, "middle.txt": 9_000})
    stage.split(tmp_path / "staged", 10_000)
    parts = sorted((tmp_path / "staged").iterdir())
    assert all(sum(file.stat().st_size for file in part.iterdir()) <= 10_000 for part in parts)
    slot.install(parts, tmp_path / "installed")
    assert contents_of(tmp_path / "installed" / "wheels") == contents


def test_packages_that_are_there_are_not_staged() -> None:
    assert list(stage.names("# comment\nTorch==2.11.0+cu130\nhuggingface_hub==1.0\n-r cpu.txt\n")) == [
        "torch",
        "huggingface-hub",
    ]


def test_work_that_outlasts_the_slot_is_told_to_end(tmp_path: Path) -> None:
    obedient = f"""
import pathlib, time
try:
    time.sleep(600)
except KeyboardInterrupt:
    pathlib.Path({str(tmp_path / "told")!r}).touch()
"""
    assert not slot.make([sys.executable, "-c", obedient], dict(os.environ), time.monotonic() + 3)
    assert (tmp_path / "told").exists()


def test_work_that_does_not_end_is_made_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "GRACE_S", 1)
    stubborn = f"""
import os, pathlib, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
time.sleep(600)
"""
    assert not slot.make([sys.executable, "-c", stubborn], dict(os.environ), time.monotonic() + 3)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow
def test_second_slot_goes_on_from_what_the_first_has_kept(tmp_path: Path, smollm2: Path) -> None:
    config = tmp_path / "audit.yaml"
    audit = "null_audit: {repeats: 24, tasks: [12], protocols: [paired], timing_budget_s: 0.05}"
    config.write_text(f'policy: {{source: "path:{smollm2}", sha256: null}}\n{audit}\n')
    (tmp_path / "staged").mkdir()

    def slot_in(folder: str, *more: object) -> subprocess.Popen:
        command = [sys.executable, SCRIPTS / "slot.py", "--staged", tmp_path / "staged", "--configfile", config]
        command += ["--run", tmp_path / folder, "--out", tmp_path / f"{folder}-out", "--minutes", 9, *more]
        command += ["--", "results/null_audit.csv"]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def measured(folder: str) -> set[str]:
        entries = [name for name in slot.kept_files(tmp_path / folder) if name.startswith("artifacts/cache/")]
        return {name for name in entries if "ceilings" not in name}

    first = slot_in("first")
    while not measured("first") and first.poll() is None:
        time.sleep(0.05)
    first.terminate()
    said, _ = first.communicate(timeout=60)
    assert "time is up" in said
    assert measured("first")
    assert not (tmp_path / "first" / "results" / "null_audit.csv").exists()
    second = slot_in("second", "--kept", tmp_path / "first-out")
    said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert "time is up" not in said
    assert (tmp_path / "second" / "results" / "null_audit.csv").exists(), said
    assert measured("first") < measured("second")


def test_how_busy_a_rule_kept_its_gpu_is_read_from_the_gpu_that_its_job_had(tmp_path: Path) -> None:
    """Two GPUs, 10 seconds: 0 at 80 %, 1 at 20 %. A job on each, one on both, one whose log names none."""
    (tmp_path / "artifacts/gpu").mkdir(parents=True)
    (tmp_path / ".snakemake/metadata").mkdir(parents=True)
    start = datetime(2026, 1, 2, 3, 4, 5).timestamp()
    seen = [(datetime.fromtimestamp(start + s), gpu, percent) for s in range(10) for gpu, percent in ((0, 80), (1, 20))]
    lines = [f"{at:%Y/%m/%d %H:%M:%S}.000, {gpu}, GPU-{gpu}, {percent}, 100" for at, gpu, percent in seen]
    (tmp_path / slot.UTILISATION).write_text("\n".join([*lines, "2026/01/02 03:"]) + "\n")
    logs = {"sample_k64": "on GPU 0", "nll_probe": "on GPU GPU-1", "rlvr_train": "on GPU 0,1", "select": "no such line"}
    for rule, log in logs.items():
        (tmp_path / f"{rule}.log").write_text(f"first\n{log}\n")
        record = {"rule": rule, "starttime": start + 2, "endtime": start + 8, "log": [f"{rule}.log"]}
        (tmp_path / ".snakemake/metadata" / rule).write_text(json.dumps(record))
    slot.write_utilisation(tmp_path)
    rows = (tmp_path / slot.BY_RULE).read_text().splitlines()
    expected = ["nll_probe,1,6.0,20.0", "rlvr_train,1,6.0,50.0", "sample_k64,1,6.0,80.0"]
    assert rows == ["rule,jobs,seconds,gpu_busy_percent", *expected]
