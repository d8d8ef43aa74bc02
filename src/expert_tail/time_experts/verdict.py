"""Is there anything to be won? Pure.

- winnable: an expert's speedup is confidently above 1 + margin: the lower end of its 95 % interval is.
- not winnable: no expert's is, and either the ceiling leaves no more than the margin, or the reference takes at most
  1 + slack of the floor: what merely moving its data, or its products at the measured peak, take.
- unknown: all else. No expert that we have wins, but there is room for one.

Winnable is a measurement. Not winnable is one, too, in the second case: it says that plain copying is no faster, not that
physics forbids it.
"""

from collections.abc import Iterable

from expert_tail.time_experts.settings import HeadroomSettings

WINNABLE, NOT_WINNABLE, UNKNOWN = "winnable", "not winnable", "unknown"


def is_won(lows: Iterable[float | None], settings: HeadroomSettings) -> bool:
    """Whether one of the experts, whose intervals begin at `lows`, wins."""
    return any(low is not None and low > 1 + settings.margin for low in lows)


def verdict(
    lows: Iterable[float | None],
    baseline_ms: float | None,
    ceiling: float | None,
    floor_ms: float | None,
    settings: HeadroomSettings,
) -> str:
    """The verdict on one task. `ceiling` is the largest speedup that its roofline allows; None: not known."""
    if is_won(lows, settings):
        return WINNABLE
    if ceiling is not None and ceiling <= 1 + settings.margin:
        return NOT_WINNABLE
    if baseline_ms is not None and floor_ms is not None and baseline_ms <= (1 + settings.slack) * floor_ms:
        return NOT_WINNABLE
    return UNKNOWN
