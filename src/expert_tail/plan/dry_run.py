"""The jobs that a run would start, from Snakemake's own dry run."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from expert_tail.errors import UserError

_RULE = re.compile(r"^(?:local)?(?:rule|checkpoint) (\S+):$")
_WILDCARDS = re.compile(r"^\s+wildcards: (.*)$")


@dataclass(frozen=True)
class Job:
    rule: str
    wildcards: dict[str, str] = field(default_factory=dict)


def jobs_of(snakefile: Path, configs: Sequence[Path], target: str, directory: Path) -> list[Job]:
    """Every job that is still to be done for `target` in `directory`, in Snakemake's order."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(directory)]
    command += ["--cores", "1", "--dry-run", "--nolock", "--nocolor", target]
    command += ["--configfile", *map(str, configs)] if configs else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError("Snakemake cannot plan this:\n" + "\n".join(f"  {line}" for line in said[-5:]))
    jobs: list[Job] = []
    for line in done.stdout.splitlines():
        if rule := _RULE.match(line):
            jobs.append(Job(rule[1]))
        elif jobs and (found := _WILDCARDS.match(line)):
            pairs = (pair.split("=", 1) for pair in found[1].split(", "))
            jobs[-1] = Job(jobs[-1].rule, dict(pairs))
    return [job for job in jobs if job.rule != "all"]
