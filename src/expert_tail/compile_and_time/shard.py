"""The part of a samples artifact that one of several jobs evaluates."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from expert_tail.errors import UserError


@dataclass(frozen=True)
class Shard:
    """Shard `number` (from 1) of `of`."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From Snakemake's `2-of-3`. Raises `UserError`."""
        found = re.fullmatch(r"(\d+)-of-(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--shard is `{text}`; it must be like 2-of-3, counted from 1", is_usage=True)
        return cls(int(found[1]), int(found[2]))

    def holds(self, candidates: Sequence[Hashable]) -> list[bool]:
        """Which of these candidates are of this shard. Equal ones are of the same, so that each is measured once.

        Distinct ones are dealt out in sorted order, whatever the order given: shards differ by one at most, also in how many
        they have of each task, where the task comes first in what is sorted.
        """
        dealt = {candidate: index % self.of for index, candidate in enumerate(sorted(set(candidates)))}  # type: ignore[type-var]
        return [dealt[candidate] == self.number - 1 for candidate in candidates]
