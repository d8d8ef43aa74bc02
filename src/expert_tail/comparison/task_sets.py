"""Sets of tasks that the comparison reports on: every sampled subset, and groups that pool the tasks of several."""

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

TaskSets = dict[str, tuple[str, ...]]  # the subsets of each set; a subset is a set of its own


def task_sets(subsets: Iterable[str], groups: Mapping[str, Sequence[str]]) -> TaskSets:
    """The subsets in their order, then the groups of which every subset is sampled."""
    found: TaskSets = {name: (name,) for name in dict.fromkeys(subsets)}
    sampled = set(found)
    return found | {name: tuple(of) for name, of in groups.items() if of and sampled.issuperset(of)}


def pooled(rows: pl.DataFrame, name: str, sets: TaskSets) -> pl.DataFrame:
    """The rows of the subsets of a set, whose column subset then has the set's name."""
    return rows.filter(pl.col("subset").is_in(sets[name])).with_columns(subset=pl.lit(name))
