"""What passes for right: the inputs that a candidate is tried on, and the tolerance of its outputs."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from scipy.stats import t as student_t

from expert_tail.evaluator import correctness
from expert_tail.evaluator.correctness import VARIATIONS, expect, mismatch, vary


def product(variation: Any, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.rand(64, 512, generator=rng), torch.rand(512, 48, generator=rng)
    vary([a, b], variation, rng)
    assert a.dtype == b.dtype == torch.float32
    return a, b


def row(values: torch.Tensor) -> torch.Tensor:
    return values.double().reshape(1, -1)


def test_noise_of_the_shifted_variation_is_students_t() -> None:
    x = torch.zeros(1 << 14)
    VARIATIONS[3](x, torch.Generator().manual_seed(3))
    noise = (x - x.median()) / 0.3  # its shift is one for all
    assert noise.abs().max() <= 41
    assert kstest(noise.numpy(), student_t(df=2).cdf).pvalue > 0.01


@pytest.mark.parametrize("variation", VARIATIONS)
def test_tolerance_passes_other_orders_of_summation_and_no_lower_precision(variation: Any) -> None:
    a, b = product(variation)
    exact = a.double().numpy() @ b.double().numpy()
    expected = expect(row(a @ b), row(torch.from_numpy(exact)))
    assert np.abs((a @ b).numpy() - exact).max() == pytest.approx(float(expected.errors_N))

    order = torch.randperm(512, generator=torch.Generator().manual_seed(1))
    in_blocks = torch.stack([a[:, i : i + 16] @ b[i : i + 16] for i in range(0, 512, 16)]).sum(0)
    one_by_one = torch.zeros(64, 48)
    for i in range(512):
        one_by_one += a[:, i, None] * b[i]
    for honest in (a[:, order] @ b[order], in_blocks, one_by_one):
        assert mismatch(row(honest), expected) == ""

    rounded = a.bfloat16().float() @ b.bfloat16().float()
    half = a.half() @ b.half()
    most = a[:, :507] @ b[:507]  # 99 % of the reduction
    for wrong in (rounded, half, most, torch.full((64, 48), exact.mean()), torch.zeros(64, 48)):
        assert "values off" in mismatch(row(wrong), expected)


def test_outputs_are_compared_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "CHUNK", 7)
    rng = torch.Generator().manual_seed(0)
    wanted = torch.rand(3, 50, generator=rng, dtype=torch.float64)
    expected = expect(wanted.float(), wanted)
    assert torch.equal(expected.errors_N, (wanted.float() - wanted).abs().amax(dim=1))
    assert mismatch(wanted, expected) == ""
    off = wanted.clone()
    off[2, 48] += 1
    assert mismatch(off, expected) == "1 of 150 values off, largest difference 1"


def test_what_is_near_the_end_of_the_range_is_judged_like_the_rest() -> None:
    wanted = torch.tensor([[1e200, 2e200, -3e200, 1e-9]], dtype=torch.float64)
    expected = expect(wanted, wanted)
    assert mismatch(wanted, expected) == ""
    assert mismatch(wanted * 1.01, expected) != ""
    assert mismatch(torch.zeros_like(wanted), expected).startswith("3 of 4 values off")


@pytest.mark.parametrize("variation", VARIATIONS)
def test_variations_keep_triangles_and_symmetry(variation: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = torch.rand(40, 40, generator=rng)
    triangle, symmetric = drawn.triu(), drawn + drawn.T
    vary([triangle, symmetric], variation, rng)
    assert torch.equal(triangle, triangle.triu())
    assert (triangle.triu() != 0).sum() > 700
    assert torch.equal(symmetric, symmetric.T)


def test_each_call_is_judged_by_its_own_scale() -> None:
    wanted = torch.stack([torch.linspace(1, 2, 50), torch.linspace(1000, 2000, 50)]).double()
    expected = expect(wanted.float(), wanted)
    assert mismatch(wanted * (1 + 1e-5), expected) == ""
    off = wanted.clone()
    off[0, 7] += 0.01  # nothing beside the second call's values
    assert mismatch(off, expected).startswith("1 of 100 values off")


def test_variations_after_the_first_leave_no_constant() -> None:
    """A mean of 10 000 uniform values is nearly one half. Varied, it is not."""
    rng = torch.Generator().manual_seed(0)
    for variation in VARIATIONS[1:]:
        means = []
        for _ in range(50):
            vary([drawn := torch.rand(100, 100, generator=rng)], variation, rng)
            means.append(float(drawn.mean()))
        assert np.ptp(means) > 0.05 * np.mean(np.abs(means))
    drawn = torch.rand(30, 40, generator=rng)
    vary([mild := drawn.clone()], VARIATIONS[1], rng)
    assert bool(((mild > 0) == (drawn > 0)).all())
    assert 0.2 < float(mild.median() / drawn.median()) < 5


@pytest.mark.parametrize(
    ("output", "is_right"),
    [
        ([1.0, np.nan, np.inf], True),
        ([1.0, np.nan, -np.inf], False),
        ([1.0, 0.0, np.inf], False),
        ([np.nan, np.nan, np.inf], False),
        ([np.inf, np.nan, np.inf], False),
    ],
)
def test_values_that_are_not_finite_must_be_where_the_reference_has_them(output: list[float], is_right: bool) -> None:
    wanted = torch.tensor([[1.0, np.nan, np.inf]], dtype=torch.float64)
    assert (mismatch(torch.tensor([output], dtype=torch.float64), expect(wanted, wanted)) == "") == is_right


def test_whole_numbers_must_be_equal() -> None:
    wanted = torch.arange(5)[None]
    assert mismatch(wanted, expect(wanted, wanted)) == ""
    assert mismatch(wanted + (wanted == 3), expect(wanted, wanted)) == "1 of 5 values differ"
