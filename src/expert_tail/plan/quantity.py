"""A number known as a range."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    """From `low` to `high`. Sums and products take the ends together, as if all were low, or all high: the widest case."""

    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Range:
        return cls(value, value)

    def plus(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def times(self, other: Range | float) -> Range:
        factor = other if isinstance(other, Range) else Range.exactly(other)
        return Range(self.low * factor.low, self.high * factor.high)


NOTHING = Range.exactly(0.0)
