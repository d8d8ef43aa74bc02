"""Objectives against NumPy, SciPy and hand calculation; and the losses they make against plain padded batches."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import entropy
from test_logprobs import VOCABULARY, collect, make_case, make_model, padded_batch, with_lora

from expert_tail.adapt.objectives import (
    OBJECTIVES,
    divergence_penalty,
    entropic,
    entropic_beta,
    leave_one_out,
    reward_advantages,
    self_distilled,
    softmax_divergence,
)
from expert_tail.errors import UserError
from expert_tail.policy.logprobs import completion_logprobs
from expert_tail.training.reward import standardised
from expert_tail.training.update import Rollout, importance_sampling_step, rollouts_of

LN2 = math.log(2)
REWARDS = st.lists(st.floats(0, 100).map(lambda x: round(x, 3)), min_size=3, max_size=40)
NUMBERS = st.floats(0.01, 100)


def divergence(rewards: Any, beta: float) -> float:
    """The oracle: KL(softmax(βr) ‖ uniform) by SciPy."""
    p = softmax(beta * np.asarray(rewards))
    return float(entropy(p, np.full(len(p), 1 / len(p))))


# --- formulas ------------------------------------------------------------------------------------------------------


def test_grpo_is_the_z_score_with_the_sample_deviation() -> None:
    rewards = np.array([0, 1.2, 0, 0.9, 1.0, 3.5])
    np.testing.assert_allclose(standardised(rewards.tolist()), (rewards - rewards.mean()) / rewards.std(ddof=1))


def test_trloo_by_hand() -> None:
    # 3 - mean(1, 2), 1 - mean(3, 2), 2 - mean(3, 1)
    assert leave_one_out([3.0, 1.0, 2.0]) == pytest.approx([1.5, -1.5, 0.0])


def test_entropic_weights_are_the_definition() -> None:
    rewards = np.array([0.0, 1.0, 1.5, 0.2, 1.45])
    beta = brentq(lambda b: divergence(rewards, b) - LN2, 1e-3, 1e3, xtol=1e-14)
    assert entropic_beta(rewards.tolist()) == pytest.approx(beta, rel=1e-10)
    e = np.exp(beta * rewards)
    expected = [e[i] / (np.delete(e, i).sum() / 4) - 1 for i in range(5)]
    np.testing.assert_allclose(entropic(rewards.tolist()), expected, rtol=1e-9)


def test_entropic_in_the_limit_shares_the_weight_among_the_highest() -> None:
    # 2 of 4 are the highest, so the divergence stays below ln 2: w = 3/(2-1) for them and 0 for the others.
    assert entropic_beta([1.0, 0.0, 1.0, 0.5]) == math.inf
    assert entropic([1.0, 0.0, 1.0, 0.5]) == [2.0, -1.0, 2.0, -1.0]
    with pytest.raises(ValueError, match="2 rewards cannot reach"):
        entropic([1.0, 0.0])


def test_sdpo_and_penalty_by_hand() -> None:
    assert self_distilled([-1.0, -3.0], [-2.0, -2.5], beta=2.0) == [2.0, -1.0]
    assert divergence_penalty([-1.0, -3.0], [-2.0, -2.5], 0.5) == [-0.5, 0.25]


@pytest.mark.parametrize("estimate", [standardised, leave_one_out, entropic])
def test_equal_rewards_give_exactly_zero(estimate: Any) -> None:
    assert estimate([0.1] * 7) == [0.0] * 7


@given(REWARDS)
def test_beta_solves_its_equation(rewards: list[float]) -> None:
    assume(len(set(rewards)) > 1)
    beta, ties = entropic_beta(rewards), rewards.count(max(rewards))
    if math.log(len(rewards) / ties) <= LN2:
        assert beta == math.inf
    else:
        assert divergence(rewards, beta) == pytest.approx(LN2, abs=1e-9)
        assert softmax_divergence(rewards, beta) == pytest.approx(LN2, abs=1e-9)


@given(REWARDS, NUMBERS, NUMBERS)
def test_invariances(rewards: list[float], scale: float, shift: float) -> None:
    assume(len(set(rewards)) > 1)
    changed = [scale * reward + shift for reward in rewards]
    assume(len(set(changed)) == len(set(rewards)))
    tolerance = dict(rel=1e-5, abs=1e-5)
    assert standardised(changed) == pytest.approx(standardised(rewards), **tolerance)
    assert entropic(changed) == pytest.approx(entropic(rewards), rel=1e-4, abs=1e-4)
    scaled = [scale * advantage for advantage in leave_one_out(rewards)]
    assert leave_one_out(changed) == pytest.approx(scaled, **tolerance)
    for estimate in (standardised, leave_one_out, entropic):
        advantages = estimate(rewards)
        assert estimate(rewards[::-1]) == pytest.approx(advantages[::-1], rel=1e-9, abs=1e-9)
        order = np.argsort(rewards, kind="stable")
        assert (np.diff(np.array(advantages)[order]) >= -1e-9).all()
    assert sum(standardised(rewards)) == pytest.approx(0, abs=1e-9)
    assert sum(leave_one_out(rewards)) == pytest.approx(0, abs=1e-9)
    assert min(entropic(rewards)) >= -1


def test_batch_compares_all_tasks_and_task_each_alone() -> None:
    rewards = [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    grpo = OBJECTIVES["grpo"]
    flat = np.array(rewards).ravel()
    z = ((flat - flat.mean()) / flat.std(ddof=1)).reshape(2, 3)
    np.testing.assert_allclose(reward_advantages(grpo, rewards, "batch"), z)
    assert reward_advantages(grpo, rewards, "task")[1] == [0.0] * 3
    doubled = reward_advantages(OBJECTIVES["entropic"], rewards, "batch", kl_target=0.1)
    assert [x for of_task in doubled for x in of_task] == pytest.approx(entropic(flat.tolist(), 0.1))


# --- the update ----------------------------------------------------------------------------------------------------


def made_rollouts(completions: Any, advantage: Any) -> list[list[Rollout]]:
    generator = torch.Generator().manual_seed(5)
    return [
        [
            Rollout(tokens, (-2 * torch.rand(len(tokens), generator=generator)).tolist(), advantage(i, j, len(tokens)))
            for j, tokens in enumerate(of_prompt)
        ]
        for i, of_prompt in enumerate(completions)
    ]


def gradient_of_the_definition(model: Any, prompts: Any, rollouts: Any, temperature: float) -> tuple[float, Any]:
    """The oracle: -(1/n) ΣΣ exp(log π − log q) A over a padded batch of plain transformers."""
    model.zero_grad()
    logprobs = padded_batch(model, prompts, [[one.token_ids for one in g] for g in rollouts], temperature)
    n = sum(map(len, rollouts))
    loss = torch.zeros(())
    for i, of_prompt in enumerate(rollouts):
        for j, one in enumerate(of_prompt):
            for t, logprob in enumerate(logprobs[i][j]):
                advantage = one.advantage[t] if isinstance(one.advantage, list) else one.advantage
                loss = loss - (logprob - one.sampled_logprobs[t]).exp() * advantage / n
    loss.backward()
    return loss.item(), collect(model)


def step(model: Any, prompts: Any, rollouts: Any, temperature: float = 0.7, cap: float = 1e9) -> Any:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-30)
    return importance_sampling_step(
        model, optimizer, prompts, rollouts, temperature=temperature, importance_cap=cap, where="here"
    )


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt-oss"])
def test_entropic_gradient_is_that_of_the_padded_batch(name: str) -> None:
    model, (prompts, completions) = with_lora(make_model(name)), make_case()
    advantages = entropic(np.random.default_rng(0).random(sum(map(len, completions))).tolist())
    flat = iter(advantages)
    rollouts = made_rollouts(completions, lambda i, j, n: next(flat))
    loss, expected = gradient_of_the_definition(model, prompts, rollouts, 0.7)
    update = step(model, prompts, rollouts)
    assert update.loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(collect(model), expected, atol=2e-5, rtol=1e-4)
    norm = math.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    assert update.gradient_norm == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt-oss"])
def test_sdpo_gradient_is_that_of_the_padded_batch(name: str) -> None:
    """Teacher contexts of their own for every rollout, packed, against padded rows; then the per-token loss."""
    model, (prompts, completions) = with_lora(make_model(name)), make_case()
    generator = torch.Generator().manual_seed(9)
    tails = [[torch.randint(VOCABULARY, (3,), generator=generator).tolist() for _ in of] for of in completions]
    contexts = [prompt + tail for prompt, of_prompt in zip(prompts, tails, strict=True) for tail in of_prompt]
    flat = [tokens for of_prompt in completions for tokens in of_prompt]
    with torch.no_grad():
        packed = completion_logprobs(model, contexts, [[tokens] for tokens in flat], temperature=0.7)
        padded = padded_batch(model, contexts, [[tokens] for tokens in flat], 0.7)
    torch.testing.assert_close(packed, padded, atol=2e-5, rtol=1e-5)

    def weighted(teacher: Any) -> list[list[Rollout]]:
        scores = iter(of_context[0].tolist() for of_context in teacher)
        students = made_rollouts(completions, lambda i, j, n: 0.0)
        return [
            [one._replace(advantage=self_distilled(next(scores), one.sampled_logprobs, 1.5)) for one in of_prompt]
            for of_prompt in students
        ]

    loss, expected = gradient_of_the_definition(model, prompts, weighted(padded), 0.7)
    update = step(model, prompts, weighted(packed))
    assert update.loss == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(collect(model), expected, atol=5e-5, rtol=5e-4)


def test_one_advantage_is_the_same_for_every_token() -> None:
    model, (prompts, completions) = with_lora(make_model("llama", torch.float64)), make_case()
    one = made_rollouts(completions, lambda i, j, n: 0.3 - j)
    each = made_rollouts(completions, lambda i, j, n: [0.3 - j] * n)
    losses, grads = [], []
    for rollouts in (one, each):
        losses.append(step(model, prompts, rollouts).loss)
        grads.append(collect(model))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-12, rtol=1e-10)


def test_weights_above_the_cap_are_cut_to_it_and_keep_their_gradient() -> None:
    """Truncated importance sampling by its definition: the gradient of Σ min(w, C) A log π, with the weight a constant."""
    model, (prompts, completions) = with_lora(make_model("llama", torch.float64)), make_case()
    rollouts = made_rollouts(completions, lambda i, j, n: 0.3 - j)
    logprobs = padded_batch(model, prompts, completions, 0.7)
    log_weights = [
        [of.detach() - of.new_tensor(one.sampled_logprobs) for of, one in zip(*of_prompt, strict=True)]
        for of_prompt in zip(logprobs, rollouts, strict=True)
    ]
    every = torch.cat([log_weight_T for of_prompt in log_weights for log_weight_T in of_prompt])
    cap = float(every.exp().median())
    assert 0.2 < (every.exp() > cap).double().mean() < 0.8
    model.zero_grad()
    n, loss, value = sum(map(len, completions)), torch.zeros(()), 0.0
    for of_prompt, weights, of_rollouts in zip(logprobs, log_weights, rollouts, strict=True):
        for logprob_T, log_weight_T, one in zip(of_prompt, weights, of_rollouts, strict=True):
            truncated_T = log_weight_T.exp().clamp(max=cap)
            value -= float(truncated_T.sum()) * one.advantage / n
            loss = loss - (truncated_T * logprob_T).sum() * one.advantage / n
    loss.backward()
    expected = collect(model)
    update = step(model, prompts, rollouts, cap=cap)
    torch.testing.assert_close(collect(model), expected, atol=1e-12, rtol=1e-9)
    assert update.loss == pytest.approx(value, rel=1e-9)
    gaps = {"logprob_gap_mean": float(every.abs().mean()), "logprob_gap_max": float(every.abs().max())}
    assert update.gaps == pytest.approx(gaps)


def test_a_weight_beyond_all_numbers_is_cut_too() -> None:
    model = with_lora(make_model("llama"))
    update = step(model, [[3]], [[Rollout([1, 2], [-500.0, -1.0], 1.0)]], cap=2.0)
    assert math.isfinite(update.loss)
    assert update.gradient_norm > 0
    assert update.gaps["logprob_gap_max"] > 400


def test_zero_advantages_leave_the_policy_alone(capsys: pytest.CaptureFixture[str]) -> None:
    model, (prompts, completions) = with_lora(make_model("llama")), make_case()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1.0)
    rollouts = made_rollouts(completions, lambda i, j, n: [0.0] * n if j % 2 else 0.0)
    update = importance_sampling_step(
        model, optimizer, prompts, rollouts, temperature=1.0, importance_cap=2.0, where="run-7 step 3"
    )
    assert update == (0.0, 0.0, {})
    assert not optimizer.state
    torch.testing.assert_close(dict(model.named_parameters()), before, atol=0, rtol=0)
    assert "run-7 step 3: all rewards are equal" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_and_no_step_is_taken(bad: float) -> None:
    model, (prompts, completions) = with_lora(make_model("llama")), make_case()
    before = {name: p.clone() for name, p in model.named_parameters()}
    rollouts = made_rollouts(completions, lambda i, j, n: bad if (i, j) == (0, 2) else 1.0)
    with pytest.raises(UserError, match=r"here: loss .* not finite; lower the learning rate"):
        step(model, prompts, rollouts)
    torch.testing.assert_close(dict(model.named_parameters()), before, atol=0, rtol=0)


def test_rollouts_of_another_shape_are_refused() -> None:
    model = with_lora(make_model("llama"))
    for rollout in (Rollout([1, 2], [-1.0], 1.0), Rollout([1, 2], [-1.0, -1.0], [1.0])):
        with pytest.raises(ValueError, match="a rollout of 2 tokens has"):
            step(model, [[3]], [[rollout]])


def test_rollouts_are_those_of_the_rows() -> None:
    row = {"task_id": 5, "token_ids": [1], "sampled_logprobs": [-0.5], "advantage": 2.0}
    rows = [row, row | {"task_id": 4, "token_advantages": None}, row | {"token_advantages": [3.0]}]
    assert rollouts_of(rows, [4, 5]) == [
        [Rollout([1], [-0.5], 2.0)],
        [Rollout([1], [-0.5], 2.0), Rollout([1], [-0.5], [3.0])],
    ]
