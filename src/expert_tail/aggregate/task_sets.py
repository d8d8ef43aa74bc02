"""Sets of tasks to report on: every sampled subset, and groups that pool the tasks of several."""

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from expert_tail.errors import UserError

TaskSets = dict[str, tuple[str, ...]]  # the subsets of each set; a subset is a set of its own


def task_sets(cells: Iterable[tuple[str, int]], groups: Mapping[str, Sequence[str]]) -> TaskSets:
    """The subsets of these (subset, seed) in their order, then the groups of which every subset is there.

    Raises `UserError` where a group has the name of a subset, or its subsets have different seeds.
    """
    seeds: dict[str, set[int]] = {}
    for subset, seed in cells:
        seeds.setdefault(subset, set()).add(seed)
    sets: TaskSets = {name: (name,) for name in seeds}
    for name, members in groups.items():
        if name in seeds:
            raise UserError(f"`comparison.groups.{name}` has the name of a subset; give it another name")
        if not members or not set(members) <= set(seeds):
            continue
        if any(seeds[member] != seeds[members[0]] for member in members):
            raise UserError(
                f"the subsets of `comparison.groups.{name}` were sampled under different seeds; sample all of them"
            )
        sets[name] = tuple(members)
    return sets


def pooled(rows: pl.DataFrame, name: str, sets: TaskSets) -> pl.DataFrame:
    """The rows of the subsets of a set, whose column subset then has the set's name."""
    return rows.filter(pl.col("subset").is_in(sets[name])).with_columns(subset=pl.lit(name))
