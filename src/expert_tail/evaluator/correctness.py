"""Is it right? Inputs a candidate is tried on, and the comparison of its outputs with the float64 reference. Pure torch.

The tolerance is relative to the output's scale and to the reference's own float32 error, so that a different summation
order passes and arithmetic in bfloat16 or half the mantissa does not:

    |out - ref64| <= RTOL (|ref64| + rms(ref64)) + REFERENCE_ERRORS max|ref32 - ref64|

Axes: N calls, each judged by itself; S values of an output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

RTOL = 1e-4
REFERENCE_ERRORS = 4.0
SPARSE = 0.1  # share of zeros that is no chance
SOME = 1 << 16  # values that tell the share of zeros to a few tenths of a percent
CHUNK = 1 << 25  # values of a call compared at a time: float64 copies of a whole output would not fit beside it


@dataclass(frozen=True, eq=False)
class Expected:
    """One output of the reference in N calls: exact values (float64, or integers) and its own largest error in each."""

    values_NS: Tensor
    errors_N: Tensor


def expect(single_NS: Tensor, double_NS: Tensor) -> Expected:
    """What an output must be, from the reference's output in its own precision and in float64."""
    errors_N = torch.zeros(len(double_NS), dtype=torch.float64, device=double_NS.device)
    if double_NS.is_floating_point():
        for start in range(0, double_NS.shape[1], CHUNK):
            difference_NC = (single_NS[:, start : start + CHUNK].double() - double_NS[:, start : start + CHUNK]).abs()
            difference_NC = torch.where(difference_NC.isfinite(), difference_NC, 0.0)
            errors_N = torch.maximum(errors_N, difference_NC.amax(dim=1))
    return Expected(double_NS, errors_N)


def mismatch(output_NS: Tensor, expected: Expected) -> str:
    """Empty if the outputs are right, else what is wrong with them."""
    wanted_NS = expected.values_NS
    if not wanted_NS.is_floating_point():
        n_wrong = int((output_NS != wanted_NS).sum())
        return f"{n_wrong} of {wanted_NS.numel()} values differ" if n_wrong else ""
    chunks = [slice(i, i + CHUNK) for i in range(0, wanted_NS.shape[1], CHUNK)]
    squares_N1, n_finite_N1 = torch.zeros(2, len(wanted_NS), 1, dtype=torch.float64, device=wanted_NS.device)
    # Squares of what is near the end of float64's range would be infinite, and allow anything.
    scale_N1 = torch.full_like(squares_N1, torch.finfo(torch.float64).tiny)
    for chunk in chunks:
        magnitude_NC = wanted_NS[:, chunk].double().abs().nan_to_num(nan=0.0, posinf=0.0)
        scale_N1 = torch.maximum(scale_N1, magnitude_NC.amax(dim=1, keepdim=True))
    for chunk in chunks:
        output_NC, wanted_NC = output_NS[:, chunk], wanted_NS[:, chunk]
        finite_NC = wanted_NC.isfinite()
        same_NC = finite_NC | (output_NC == wanted_NC) | (output_NC.isnan() & wanted_NC.isnan())
        if not bool(same_NC.all()):
            return "NaN or infinity where the reference has it is missing or different"
        scaled_NC = torch.where(finite_NC, wanted_NC.double() / scale_N1, 0.0)
        squares_N1 += scaled_NC.square().sum(dim=1, keepdim=True)
        n_finite_N1 += finite_NC.sum(dim=1, keepdim=True)
    rms_N1 = scale_N1 * (squares_N1 / n_finite_N1.clamp_min(1)).sqrt()
    n_wrong, largest = 0, 0.0
    for chunk in chunks:
        finite_NC = wanted_NS[:, chunk].isfinite()
        output_NC, wanted_NC = (torch.where(finite_NC, x[:, chunk].double(), 0.0) for x in (output_NS, wanted_NS))
        difference_NC = (output_NC - wanted_NC).abs()
        allowed_NC = RTOL * (wanted_NC.abs() + rms_N1) + REFERENCE_ERRORS * expected.errors_N[:, None]
        n_wrong += int((~(difference_NC <= allowed_NC)).sum())  # NaN is wrong
        largest = max(largest, float(difference_NC.max()))
    return f"{n_wrong} of {wanted_NS.numel()} values off, largest difference {largest:.3g}" if n_wrong else ""


def _share_of_zeros(values: Tensor, rng: Generator) -> float:
    """Of many values it is an estimate, from some: to look at all takes longer than to draw them."""
    flat = values.view(-1)
    if flat.numel() > SOME:
        flat = flat[torch.randint(flat.numel(), (SOME,), generator=rng, device=values.device)]
    return float((flat == 0).float().mean())


Variation = Callable[[Tensor, Generator], None]  # in place


def _uniform(low: float, high: float, shape: tuple[int, ...], like: Tensor, rng: Generator) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(low, high, generator=rng)


def _as_drawn(values: Tensor, rng: Generator) -> None:
    pass


def _rescaled(values: Tensor, rng: Generator) -> None:
    """A scale for each row and column, and one for all. Signs stay, so that even logarithms can be taken."""
    exponent = _uniform(-0.7, 0.7, (), values, rng)
    for axis in sorted({0, values.ndim - 1}):
        along = [1] * values.ndim
        along[axis] = values.shape[axis]
        values.mul_((exponent + _uniform(-0.3, 0.3, tuple(along), values, rng)).exp_())
        exponent.zero_()


def _outliers(values: Tensor, rng: Generator) -> None:
    """Scaled, with a few large values of either sign: of 1024 or more, one above and one below what exp can take in float32."""
    flat = values.mul_(_uniform(-1.5, 1.5, (), values, rng).exp()).view(-1)
    every = min(512, flat.numel())
    n_large = flat.numel() // every
    # One of each 512: no place twice, so that the result depends on the generator alone.
    where = torch.arange(n_large, device=values.device) * every
    where += torch.randint(every, (n_large,), generator=rng, device=values.device)
    flat[where] *= _uniform(-30.0, 30.0, (n_large,), values, rng)
    first = torch.randint(n_large, (1,), generator=rng, device=values.device)
    for i, sign in enumerate((1.0, -1.0)[:n_large]):
        flat[where[(first + i) % n_large]] = sign * _uniform(100.0, 130.0, (1,), values, rng)


def _shifted(values: Tensor, rng: Generator) -> None:
    """Shifted, with a heavy-tailed noise (Student's t, 2 degrees of freedom) that leaves no bound of the drawn standing.

    Beyond `CHUNK` values it repeats at other scales, so that no part tells of the whole: to draw it all takes longer than to
    draw the inputs.
    """
    parts = values.view(-1).split(CHUNK)
    u = torch.empty_like(parts[0]).uniform_(-1.0, 1.0, generator=rng)
    noise = u.div_((u * u).neg_().add_(1.0).mul_(0.5).sqrt_())  # its quantile function, faster than two draws
    noise.clamp_(-40.0, 40.0).mul_(0.3).add_(_uniform(-1.5, 1.5, (), values, rng))
    scales = _uniform(0.5, 1.5, (len(parts),), values, rng).tolist() if len(parts) > 1 else [1.0]
    for part, scale in zip(parts, scales, strict=True):
        part.add_(noise[: part.numel()], alpha=scale)


# Constants pass where a reduction over many uniform values concentrates, and shortcuts where all are positive or below 1.
VARIATIONS: tuple[Variation, ...] = (_as_drawn, _rescaled, _outliers, _shifted)


def vary(inputs: list[Any], variation: Variation, rng: Generator) -> None:
    """Apply `variation`, in place, to every contiguous floating-point tensor of two or more values; others stay as drawn.

    Zeros of a triangular or otherwise sparse tensor stay zero, and a symmetric matrix symmetric: a task may mean them.
    """
    for x in inputs:
        if isinstance(x, Tensor) and x.dtype in (torch.float32, torch.float64) and x.numel() > 1:
            zeros = x == 0 if _share_of_zeros(x, rng) > SPARSE else None
            is_symmetric = x.ndim == 2 and x.shape[0] == x.shape[1] and torch.equal(x, x.T)
            variation(x, rng)
            if zeros is not None:
                x[zeros] = 0.0
            if is_symmetric:
                x.copy_(0.5 * (x + x.T))
