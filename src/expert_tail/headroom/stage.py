"""Write the table and the figure of headroom."""

from pathlib import Path

import polars as pl

from expert_tail import artifacts
from expert_tail.figure_style import save
from expert_tail.headroom.figure import draw
from expert_tail.progress import log
from expert_tail.results import write_table
from expert_tail.time_experts.verdict import UNKNOWN, WINNABLE

SUBSET = "headroom"  # the subset that is meant to hold winnable tasks only
COLUMNS = ["task_id", "name", "split", "hardware", "expert", "status", "speedup", "speedup_low", "speedup_high"]
COLUMNS += ["kernel_ms", "baseline_ms", "ceiling", "floor_ms", "verdict"]


def run(measured: list[Path], output: Path) -> None:
    """Write headroom.csv and figure_headroom to the folder `output`, and warn of tasks in the wrong subset."""
    frames = [pl.DataFrame(pl.from_arrow(artifacts.read(path, "headroom", COLUMNS))) for path in measured]
    table = pl.concat(frames).select(COLUMNS).sort("task_id", "expert")
    table = write_table(table, output / "headroom.csv")
    save(draw(table), output / "figure_headroom")
    tasks = table.unique("task_id")
    counts = ", ".join(f"{n} {verdict}" for verdict, n in tasks["verdict"].value_counts().sort("verdict").rows())
    log(f"headroom: of {tasks.height} tasks {counts} -> {output}/headroom.csv")
    for warning in misplaced(table):
        log(f"headroom: {warning}")


def misplaced(table: pl.DataFrame) -> list[str]:
    """What is wrong with the subset `headroom`: tasks that no expert was measured to win here."""
    return [
        f"WARNING: task {row['task_id']} ({row['name']}) is in the subset `{SUBSET}`, but is "
        f"{'not known to be winnable' if row['verdict'] == UNKNOWN else row['verdict']} on {row['hardware']}; "
        f"take it out of `tasks.subsets.{SUBSET}`"
        for row in table.unique("task_id").sort("task_id").iter_rows(named=True)
        if row["split"] == SUBSET and row["verdict"] != WINNABLE
    ]
