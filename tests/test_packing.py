"""The layout against brute force: every row sees exactly its ancestors, every token is predicted by its parent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expert_tail.policy.attention import visible
from expert_tail.policy.packing import Pack, attention_blocks, batch_blocks, pack_sequences

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=7)
cases = st.lists(st.tuples(tokens, st.lists(tokens, max_size=6)), max_size=4)


def ancestors_by_position(pack: Pack) -> list[list[int]]:
    """Rows from the root to each row, itself included: the parent is the last row before it that is one less deep."""
    lineage: list[list[int]] = []
    last_at: dict[int, int] = {}
    for row, position in enumerate(pack.positions_S.tolist()):
        lineage.append([*(lineage[last_at[position - 1]] if position else []), row])
        last_at[position] = row
    return lineage


@given(cases, st.integers(1, 40), st.integers(1, 12), st.none() | st.integers(1, 9))
@settings(max_examples=100)
def test_every_row_sees_exactly_its_ancestors(
    case: list[tuple[list[int], list[list[int]]]], max_tokens: int, block_rows: int, window: int | None
) -> None:
    prompts, completions = [prompt for prompt, _ in case], [of_prompt for _, of_prompt in case]
    seen_pairs = []
    for pack in pack_sequences(prompts, completions, max_tokens):
        seen_pairs += pack.pairs
        assert len(pack.tokens_S) <= max_tokens or len(pack.pairs) == 1
        lineage = ancestors_by_position(pack)
        prefixes = [[int(pack.tokens_S[row]) for row in rows] for rows in lineage]

        n = 0
        for (i, j), length in zip(pack.pairs, pack.lengths, strict=True):
            assert length == len(completions[i][j])
            for t, token in enumerate(completions[i][j]):
                assert prefixes[pack.predictor_N[n]] == prompts[i] + completions[i][j][:t]
                assert pack.targets_N[n] == token
                n += 1
        assert n == len(pack.targets_N) == len(pack.predictor_N)

        computed = []
        for batch in batch_blocks(attention_blocks(pack.end_S, block_rows)):
            sees_BQK = visible(pack, batch, window, torch.device("cpu")).numpy()
            if batch.is_causal and window is None:
                causal_QK = np.tri(batch.query_rows_BQ.shape[1], dtype=bool) & batch.key_valid_BK[:, None]
                assert (causal_QK == sees_BQK)[batch.query_valid_BQ].all()
            assert sees_BQK.any(axis=-1).all(), "a query without keys would be NaN"
            for b, q in np.argwhere(batch.query_valid_BQ):
                row = batch.query_rows_BQ[b, q]
                computed.append(row)
                expected = [k for k in lineage[row] if window is None or len(lineage[row]) - len(lineage[k]) < window]
                assert sorted(batch.key_rows_BK[b][sees_BQK[b, q]]) == expected
        assert sorted(computed) == list(range(len(pack.tokens_S)))
    assert sorted(seen_pairs) == [(i, j) for i, of_prompt in enumerate(completions) for j in range(len(of_prompt))]


@given(tokens, st.lists(tokens, min_size=1, max_size=8))
def test_what_completions_of_a_prompt_share_is_one_row(prompt: list[int], completions: list[list[int]]) -> None:
    (pack,) = pack_sequences([prompt], [completions], 10**6)
    inputs = [(*prompt, *completion[:-1]) for completion in completions]
    assert len(pack.tokens_S) == len({seq[:n] for seq in inputs for n in range(1, len(seq) + 1)})


def test_prompts_share_their_common_prefix_once() -> None:
    common = list(range(100, 120))
    prompts = [[*common, 1, 2], [*common, 3], [*common, 4, 5, 6]]
    (pack,) = pack_sequences(prompts, [[[7, 8]]] * 3, 10**6)
    assert len(pack.tokens_S) == 20 + 2 + 1 + 3 + 3


def test_a_prompt_that_fits_into_one_pass_is_not_split() -> None:
    prompts = [[i] * 10 for i in range(3)]
    completions = [[[7, 8, 9], [8, 8, 9], [9, 8, 9]]] * 3  # 16 rows each
    packs = list(pack_sequences(prompts, completions, 24))
    assert [sorted({i for i, _ in pack.pairs}) for pack in packs] == [[0], [1], [2]]
    assert [len(pack.tokens_S) for pack in packs] == [16, 16, 16]


def test_blocks_of_a_long_prompt_and_its_completions() -> None:
    (pack,) = pack_sequences([[1] * 900], [[[k] * 12 for k in range(32)]], 10**6)
    chain, *forests = attention_blocks(pack.end_S, 512)
    assert chain.is_causal
    assert (chain.start, chain.stop) == (0, 900)
    assert all(block.path for block in forests)


def test_what_cannot_be_scored_is_named() -> None:
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        list(pack_sequences([[1], []], [[[1]], [[1]]], 10))
    with pytest.raises(ValueError, match="completion 1 of prompt 0 is empty"):
        list(pack_sequences([[1]], [[[1], []]], 10))
    with pytest.raises(ValueError, match="2 prompts, but completions for 1"):
        list(pack_sequences([[1], [2]], [[[1]]], 10))
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        list(pack_sequences([[1]], [[[1]]], 0))
    assert list(pack_sequences([], [], 10)) == []
    assert list(pack_sequences([[]], [[]], 10)) == []
