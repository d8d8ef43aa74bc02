"""The Pareto front: what no other point beats at its cost or below."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def on_front(cost: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Which of n points are not dominated, as booleans (n,).

    A point is dominated where another costs no more, is worth no less, and differs in one of the two. Equal points are on
    the front together. Raises `ValueError` where a number is not finite.
    """
    cost_n, value_n = np.asarray(cost, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if not (np.isfinite(cost_n).all() and np.isfinite(value_n).all()):
        raise ValueError("costs and values must be finite")
    no_worse = (cost_n[None] <= cost_n[:, None]) & (value_n[None] >= value_n[:, None])
    better = (cost_n[None] < cost_n[:, None]) | (value_n[None] > value_n[:, None])
    return ~np.asarray((no_worse & better).any(axis=1))
