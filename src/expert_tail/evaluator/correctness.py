"""Is it right? Inputs a candidate is tried on, and the comparison of its outputs with the float64 reference. Pure NumPy.

The tolerance is relative to the output's scale and to the reference's own float32 error, so that a different summation
order passes and arithmetic in bfloat16 or half the mantissa does not:

    |out - ref64| <= RTOL (|ref64| + rms(ref64)) + REFERENCE_ERRORS max|ref32 - ref64|
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

RTOL = 1e-4
REFERENCE_ERRORS = 4.0

Array = np.ndarray


@dataclass(frozen=True)
class Expected:
    """One output of the reference, flat: exact values (float64, or integers) and the reference's own largest error."""

    values: Array
    reference_error: float


def expect(single: Array, double: Array) -> Expected:
    """What an output must be, from the reference's output in its own precision and in float64 (flat arrays)."""
    if not np.issubdtype(double.dtype, np.floating):
        return Expected(double, 0.0)
    with np.errstate(invalid="ignore"):
        difference = np.abs(single - double)
    return Expected(double, float(np.max(difference, where=np.isfinite(difference), initial=0.0)))


def mismatch(output: Array, expected: Expected) -> str:
    """Empty if `output` (flat) is right, else what is wrong with it."""
    wanted = expected.values
    if not np.issubdtype(wanted.dtype, np.floating):
        wrong = output != wanted
        return f"{np.count_nonzero(wrong)} of {wanted.size} values differ" if wrong.any() else ""
    finite = np.isfinite(wanted)
    if not np.array_equal(output[~finite], wanted[~finite], equal_nan=True):
        return "NaN or infinity where the reference has it is missing or different"
    output, wanted = output[finite], wanted[finite]
    rms = np.sqrt(np.mean(np.square(wanted))) if wanted.size else 0.0
    difference = np.abs(output - wanted)
    right = difference <= RTOL * (np.abs(wanted) + rms) + REFERENCE_ERRORS * expected.reference_error  # NaN is not
    if right.all():
        return ""
    return (
        f"{np.count_nonzero(~right)} of {expected.values.size} values off, largest difference {np.max(difference):.3g}"
    )


Variation = Callable[[Array, np.random.Generator], Array]


def _as_drawn(values: Array, rng: np.random.Generator) -> Array:
    return values


def _rescaled(values: Array, rng: np.random.Generator) -> Array:
    """A scale for each row and column, and one for all. Signs stay, so that even logarithms can be taken."""
    scale = np.exp(rng.uniform(-0.7, 0.7))
    for axis in {0, values.ndim - 1}:
        along = [1] * values.ndim
        along[axis] = values.shape[axis]
        scale = scale * np.exp(rng.uniform(-0.3, 0.3, along))
    return values * scale.astype(values.dtype)


def _outliers(values: Array, rng: np.random.Generator) -> Array:
    """Scaled, with a few large values of either sign."""
    changed = (values * np.exp(rng.uniform(-1.5, 1.5)).astype(values.dtype)).reshape(-1)
    where = rng.integers(0, changed.size, max(1, changed.size // 512))
    changed[where] *= rng.uniform(-30.0, 30.0, where.size).astype(values.dtype)
    return changed.reshape(values.shape)


def _shifted(values: Array, rng: np.random.Generator) -> Array:
    """Shifted, with a heavy-tailed noise that leaves no bound of the drawn values standing."""
    noise = np.clip(rng.standard_t(2.0, values.shape), -40.0, 40.0)
    return values + (rng.uniform(-1.5, 1.5) + 0.3 * noise).astype(values.dtype)


# Constants pass where a reduction over many uniform values concentrates, and shortcuts where all are positive or below 1.
VARIATIONS: tuple[Variation, ...] = (_as_drawn, _rescaled, _outliers, _shifted)


def vary(inputs: list[Any], variation: Variation, rng: np.random.Generator) -> list[Any]:
    """Apply `variation` to every floating-point array of two or more values; others stay as drawn."""
    return [
        variation(x, rng) if isinstance(x, np.ndarray) and x.dtype in (np.float32, np.float64) and x.size > 1 else x
        for x in inputs
    ]
