"""Equivalent K: how many samples a task Best-of-N needs for the success that a method reaches (paper section 5.1).

Read off the scaling curve, which rises with K, linearly in log2 K between its points. Nothing is read beyond its ends: a
method below one sample's success, or above that of all K, has no equivalent K, and `place` says which it is. (The paper
prints 0.5 for such a method.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ON_CURVE, FLAT = "on the curve", "the curve is flat"
_ROUNDING = 1e-12


class EquivalentK(NamedTuple):
    k: float | None
    place: str


def equivalent_k(value: float, ks: Sequence[int], curve: Sequence[float]) -> EquivalentK:
    """The least K at which the curve reaches `value`. `ks` ascend; `curve` has the success of each, which must not fall.

    Where the curve does not rise at all, and `value` lies on it, any K is as good as another: there is no answer.
    """
    rising = np.maximum.accumulate(np.asarray(curve, dtype=np.float64))
    if value < rising[0] - _ROUNDING:
        return EquivalentK(None, f"below K = {ks[0]}")
    if value > rising[-1] + _ROUNDING:
        return EquivalentK(None, f"above K = {ks[-1]}")
    if rising[0] == rising[-1]:
        return EquivalentK(None, FLAT)
    at = int(np.argmax(rising >= value - _ROUNDING))
    if at == 0:
        return EquivalentK(float(ks[0]), ON_CURVE)
    low, high = np.log2(ks[at - 1]), np.log2(ks[at])
    share = (value - rising[at - 1]) / (rising[at] - rising[at - 1])
    return EquivalentK(float(2 ** (low + share * (high - low))), ON_CURVE)


def equivalent_interval(low: float, high: float, ks: Sequence[int], curve: Sequence[float]) -> list[float | None]:
    """The equivalent K of both ends of a method's interval; an end that lies beyond the curve's is the first or last K.

    What the curve itself is uncertain by is not in it. Nothing where the curve is flat, or all of the interval beyond it.
    """
    highest = max(curve)
    if high < curve[0] or low > highest:
        return [None, None]
    return [equivalent_k(min(max(end, curve[0]), highest), ks, curve).k for end in (low, high)]
