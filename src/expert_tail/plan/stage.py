"""The plan of a configuration as text or JSON."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from expert_tail.config import Config, parse_config
from expert_tail.errors import UserError
from expert_tail.plan.dry_run import jobs_of
from expert_tail.plan.estimate import Estimate, Estimator, Size, dense, rates, size_of
from expert_tail.plan.quantity import Range
from expert_tail.plan.work import work_of
from expert_tail.tasks import load_suite

Row = dict[str, Any]
GPU_BYTES = 80e9  # of the GPUs that rates are of


def plan(
    configs: Sequence[Path],
    target: str = "all",
    directory: Path = Path(),
    snakefile: Path = Path("Snakefile"),
    device: str | None = None,
    parameters: float | None = None,
    active: float | None = None,
) -> Row:
    """What is still to be done in `directory` for `target`, and what it will take: totals, and a row a rule.

    `device` is a name in `rates.json` (left out: h100 for the sizes of a GPU, else cpu); `parameters` and `active` are
    those of the policy, in billions.
    """
    config = _merged(snakefile, configs)
    chosen = device or ("h100" if config.tasks.scale == "gpu" else "cpu")
    size = size_of(config.policy.source) if parameters is None else dense(parameters * 1e9)
    if active is not None:
        size = Size(size.parameters, active * 1e9, size.layers, size.stored_bytes)
    jobs = jobs_of(snakefile, configs, target, directory)
    n_tasks = len(load_suite(config.tasks.source, config.tasks.scale))
    estimator = Estimator(config, size, chosen)
    rows: dict[str, tuple[int, int, int, Estimate]] = {}
    for job in jobs:
        name = "adapt" if job.rule.startswith("adapt_") else job.rule
        work = work_of(job, config, n_tasks)
        count, samples, evaluated, so_far = rows.get(name, (0, 0, 0, Estimate()))
        estimate = so_far.plus(estimator.of(job.rule, work))
        rows[name] = (count + 1, samples + work.samples, evaluated + work.evaluated + work.repeated, estimate)
    total = Estimate()
    for *_, estimate in rows.values():
        total = total.plus(estimate)
    gpus = max(config.policy.processes, config.policy.shards) if chosen != "cpu" else 0
    return {
        "target": target,
        "device": chosen,
        "policy": {"source": config.policy.source, "parameters": size.parameters, "active": size.active},
        "rules": [
            {"rule": name, "jobs": count, "samples": samples, "evaluations": evaluated, **_ends(estimate)}
            for name, (count, samples, evaluated, estimate) in rows.items()
        ],
        "total": {"jobs": len(jobs), **_ends(total)},
        "gpus": gpus,
        "shards": config.policy.shards,
        "gpu_hours": None if chosen == "cpu" else [round(s * gpus / 3600, 2) for s in total.seconds],
        "memory_bytes": {name: list(value) for name, value in estimator.memory().items()},
        "sources": _sources(chosen),
    }


def _merged(snakefile: Path, configs: Sequence[Path]) -> Config:
    from snakemake.utils import update_config

    values: dict[str, Any] = {}
    for file in (snakefile.with_name("config.yaml"), *configs):
        try:
            update_config(values, yaml.safe_load(file.read_text()) or {})
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}", is_usage=True) from error
        except yaml.YAMLError as error:
            raise UserError(f"{file} is not YAML: {error}") from error
    return parse_config(values)


def _ends(estimate: Estimate) -> Row:
    names = ("seconds", "tokens", "computed", "distinct", "disk")
    return {name: [round(end, 1) for end in getattr(estimate, name)] for name in names}


def _sources(device: str) -> dict[str, str]:
    known = rates()
    of_device = known["devices"][device]
    kinds: dict[str, list[str]] = {"measured": [], "estimated": []}
    for name, rate in of_device.items():
        if isinstance(rate, dict):
            kinds[rate["kind"]].append(name)
    sources = {"machine": of_device["machine"], "how": of_device["command"], "carried over": of_device["scaling"]}
    sources |= {kind: ", ".join(names) for kind, names in kinds.items() if names}
    return sources | {name: habit["source"] for name, habit in known["habits"].items()}


def _span(ends: Sequence[float], show: Callable[[float], str]) -> str:
    low, high = (show(end) for end in Range(*ends))
    return "" if not ends[1] else low if low == high else f"{low} – {high}"


def _count(value: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.0f}"


def _size(value: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f} B"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


_SHOWN = {"distinct": _count, "tokens": _count, "computed": _count, "seconds": _time, "disk": _size}


def _columns(row: Row) -> list[str]:
    return [_span(row[name], show) for name, show in _SHOWN.items()]


def as_text(plan: Row) -> str:
    """The plan for a reader: a line a rule, totals, memory, and where the numbers come from."""
    policy, total = plan["policy"], plan["total"]
    size = f"{_count(policy['parameters'])} parameters"
    if policy["active"] != policy["parameters"]:
        size += f", {_count(policy['active'])} active"
    lines = [f"{plan['target']} on {plan['device']} with {policy['source']} ({size}). Ranges are low to high.", ""]
    table = [["rule", "jobs", "samples", "candidates", "tokens", "computed", "time", "disk"]]
    for row in plan["rules"]:
        samples = _count(row["samples"]) if row["samples"] else ""
        table.append([row["rule"], str(row["jobs"]), samples, *_columns(row)])
    table.append(["total", str(total["jobs"]), "", *_columns(total)])
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    if plan["gpu_hours"]:
        hours = _span(plan["gpu_hours"], lambda value: f"{value:.1f}")
        lines.append(f"GPU hours: {hours}, on {plan['gpus']} GPU{'s' if plan['gpus'] > 1 else ''}, one job at a time")
    memory = {name: _span(value, _size) for name, value in plan["memory_bytes"].items()}
    lines.append(f"Memory: weights {memory['weights']}, an update {memory['update']}, altogether {memory['all']}")
    if plan["gpus"] and plan["memory_bytes"]["all"][1] > plan["shards"] * GPU_BYTES:
        room = _size(plan["shards"] * GPU_BYTES)
        lines.append(
            f"That may be more than `policy.shards` {plan['shards']} of {_size(GPU_BYTES)} hold ({room}): raise it"
        )
    lines += ["", "Where the numbers come from:"]
    lines += [f"  {name}: {text}" for name, text in plan["sources"].items()]
    return "\n".join(lines)


def as_json(plan: Row) -> str:
    return json.dumps(plan, indent=1)
