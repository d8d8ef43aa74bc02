"""The rows of the sample explorer: distinct completions with what is known of them. Pure.

`samples` has one row a sample: subset, task_id, seed, sample, completion, action, status, reason, error, speedup,
speedup_low, speedup_high, kernel_ms, baseline_ms, roofline_ms, trials, nll, nll_mean, n_tokens, finish_reason.
`selections` has subset, task_id, seed, strategy and samples (a list of indices). `rollouts`, of adaptation, has run and
step beside the columns of `samples`, and no surprisal at temperature 1 (nll and nll_mean are null).
"""

from typing import Any

import polars as pl
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from expert_tail.policy.action import candidate_source
from expert_tail.success import CORRECT

CELL = ["subset", "task_id", "seed"]
_MEASURED = ["speedup", "speedup_low", "speedup_high", "kernel_ms", "baseline_ms", "roofline_ms", "trials"]
_FIRST = ["action", "status", "reason", "error", *_MEASURED, "nll", "nll_mean", "n_tokens", "finish_reason"]
_OF_CORRECT = [pl.when(CORRECT).then(name).alias(name) for name in _MEASURED[:3]]
_LONGEST = 20_000  # characters of a text that are shown
_PYTHON = PythonLexer(stripnl=False)
_HTML = HtmlFormatter(nowrap=True)


def content(
    samples: pl.DataFrame, selections: pl.DataFrame, rollouts: pl.DataFrame, tasks: pl.DataFrame
) -> dict[str, Any]:
    """What the page's script gets: rows, the texts that rows refer to by index, and tasks by id.

    `tasks` has task_id, name, reference_source and headroom. Rows are one for each subset, task, seed and completion:
    the same completion has the same candidate, verdict and surprisal, whatever its number. Below them, one for each run
    of adaptation, task and completion. Texts are HTML, escaped.
    """
    references = dict(tasks.select("task_id", "reference_source").rows())
    candidates: dict[str, int] = {}
    rows = []
    of_samples, of_rollouts = distinct(samples, selections), first_seen(rollouts)
    for row in (*of_samples.iter_rows(named=True), *of_rollouts.iter_rows(named=True)):
        source = candidate_source(references[row["task_id"]], row["completion"], row.pop("action"))
        row["candidate"] = candidates.setdefault(source, len(candidates))
        row["completion"] = _shortened(row["completion"])
        row["error"] = _shortened(row["error"] or "")
        row["ceiling"] = row["baseline_ms"] / row["roofline_ms"] if row["baseline_ms"] and row["roofline_ms"] else None
        row["is_confident"] = row["status"] == "correct" and (row["speedup_low"] or 0) > 1
        rows.append({key: _rounded(value) for key, value in row.items()})
    shown = {row["task_id"] for row in rows}
    return {
        "rows": rows,
        "candidates": [code(source) for source in candidates],
        "tasks": {
            task_id: {"name": _plain(name, task_id), "headroom": headroom, "reference": code(source)}
            for task_id, name, headroom, source in tasks.select(
                "task_id", "name", "headroom", "reference_source"
            ).rows()
            if task_id in shown
        },
    }


def distinct(samples: pl.DataFrame, selections: pl.DataFrame) -> pl.DataFrame:
    """One row per subset, task, seed and completion: `count` samples, the first of which is `sample`, and `picked`, the
    strategies that deploy one of them. Strategies that leave the choice among several to chance pick none."""
    by_chance = selections.filter(pl.col("samples").list.len() > 1)["strategy"].unique()
    picks = (
        selections.filter(~pl.col("strategy").is_in(by_chance.implode()))
        .explode("samples")
        .drop_nulls("samples")
        .select(*CELL, "strategy", sample=pl.col("samples"))
        .join(samples.select(*CELL, "sample", "completion"), on=[*CELL, "sample"])
        .group_by([*CELL, "completion"])
        .agg(picked=pl.col("strategy").unique().sort())
    )
    return (
        samples.sort("sample")
        .group_by([*CELL, "completion"], maintain_order=True)
        .agg(pl.len().alias("count"), pl.col("sample", *_FIRST).first())
        .join(picks, on=[*CELL, "completion"], how="left")
        .with_columns(
            pl.col("picked").fill_null([]),
            *_OF_CORRECT,
            run=pl.lit(None, dtype=pl.String),
            step=pl.lit(None, dtype=pl.Int32),
        )
        .join(samples.select("subset").unique(maintain_order=True).with_row_index("place"), on="subset")
        .sort("place", "task_id", "seed", "sample")
        .drop("place")
    )


def first_seen(rollouts: pl.DataFrame) -> pl.DataFrame:
    """One row per run, task and completion, as `distinct` has them: `count` rollouts, the first of which is that of `step`
    and `sample`."""
    return (
        rollouts.sort("step", "sample")
        .group_by("run", *CELL, "completion", maintain_order=True)
        .agg(pl.len().alias("count"), pl.col("step", "sample", *_FIRST).first())
        .with_columns(*_OF_CORRECT, picked=pl.lit([], dtype=pl.List(pl.String)))
        .sort("run", "task_id", "step", "sample")
    )


def code(source: str) -> str:
    """Python as highlighted HTML; text that is no Python comes out escaped, too."""
    return highlight(_shortened(source), _PYTHON, _HTML)


def style(selector: str) -> str:
    """CSS of `code`, for light and dark pages."""
    light, dark = (HtmlFormatter(style=name).get_style_defs(selector) for name in ("xcode", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _plain(name: str, task_id: int) -> str:
    """`12_Matmul_with_diagonal_matrices_` -> Matmul with diagonal matrices."""
    return name.removeprefix(f"{task_id}_").replace("_", " ").strip()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\n… ({len(text) - _LONGEST} more characters)"


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
