"""Token trees: many (prompt, completion) sequences in one packed row, each shared prefix once.

`[prompt | c_1 | … | c_K]` generalised: whatever two sequences begin with in common is stored once. That covers a few-shot
prefix shared by all tasks, a prompt shared by its completions, completions that begin alike, and exact duplicates, with
one rule. Rows lie in depth-first order, so the descendants of row r are exactly the rows r+1 … end[r]-1 and

    row q sees row k  ⇔  k ≤ q < end[k]                                                                             (1)

A row's position is its depth, i.e. what it would be in its own sequence. The last token of a sequence predicts nothing
that is asked for, so it is no row unless another sequence goes on through it.

Axes: S rows of a pack, N completion tokens of a pack (all its pairs in order), B blocks of a batch, Q query rows and
K key rows of a block (padded to the longest of the batch).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]  # (index of the prompt, index of the completion among its prompt's)
Tokens = Sequence[int]
Ints = NDArray[np.int64]

# Own keys of a block are attended to densely under a mask: larger blocks waste more on unrelated siblings, smaller ones
# copy their path's keys more often. 512 is flat between the two for paths of a few hundred tokens or more.
BLOCK_ROWS = 512
# Blocks are padded together into one attention call while the padded area stays below this multiple of the true one.
PADDING = 1.25


@dataclass(frozen=True)
class Pack:
    """One forward pass: the rows of a token tree, and where each completion token's log-prob is read off."""

    pairs: list[Pair]
    lengths: list[int]  # completion tokens of each pair; they add up to N
    tokens_S: Ints
    positions_S: Ints
    end_S: Ints  # the descendants of row r are r+1 … end_S[r]-1
    predictor_N: Ints  # row whose output predicts the token: its parent in the tree
    targets_N: Ints  # token ids


@dataclass(frozen=True)
class Block:
    """Rows start … stop-1, which see `path` (rows before them, their common ancestors) and, by (1), one another."""

    path: tuple[range, ...]
    start: int
    stop: int
    is_chain: bool  # each row is the next one's parent: rule (1) is plain causality

    @property
    def is_causal(self) -> bool:
        return self.is_chain and not self.path

    @property
    def n_queries(self) -> int:
        return self.stop - self.start

    @property
    def n_keys(self) -> int:
        return sum(map(len, self.path)) + self.n_queries


@dataclass(frozen=True)
class BlockBatch:
    """Blocks that one attention call computes together, padded at the end.

    A padding query repeats its block's first row, so that its softmax is well defined; its output is never read.
    A padding key repeats row 0 and is masked: `key_valid_BK` is false there.
    """

    query_rows_BQ: Ints
    query_valid_BQ: NDArray[np.bool_]
    key_rows_BK: Ints
    key_valid_BK: NDArray[np.bool_]
    is_causal: bool


def pack_sequences(
    prompts: Sequence[Tokens], completions: Sequence[Sequence[Tokens]], max_tokens: int
) -> Iterator[Pack]:
    """Distribute all (prompt, completion) pairs over packs of at most `max_tokens` rows.

    A prompt whose tree fits into one pack is never split over two; one that does not is repeated in each of its packs.
    A single sequence longer than `max_tokens` gets a pack of its own. Neighbouring prompts and completions are the ones
    that share most, since both are visited in lexicographic order.

    Raises:
        ValueError: an empty prompt or completion, or `max_tokens` below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1 (got {max_tokens})")
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts, but completions for {len(completions)}")
    tree = _TreeBuilder()
    for i in sorted((i for i in range(len(prompts)) if len(completions[i])), key=lambda i: list(prompts[i])):
        prompt = list(prompts[i])
        if not prompt:
            raise ValueError(f"prompt {i} is empty")
        alone = _TreeBuilder()
        for completion, j in sorted((list(completion), j) for j, completion in enumerate(completions[i])):
            if not completion:
                raise ValueError(f"completion {j} of prompt {i} is empty")
            alone.add((i, j), prompt, completion)
        n_here = tree.n_rows + alone.n_rows - tree.shared(prompt, [])
        if tree.pairs and n_here > max_tokens >= alone.n_rows:
            yield tree.pack()
            tree = _TreeBuilder()
        for pair, completion in zip(alone.pairs, alone.completions, strict=True):
            n_new = len(prompt) + len(completion) - 1 - tree.shared(prompt, completion)
            if tree.pairs and tree.n_rows + n_new > max_tokens:
                yield tree.pack()
                tree = _TreeBuilder()
            tree.add(pair, prompt, completion)
    if tree.pairs:
        yield tree.pack()


class _TreeBuilder:
    """Adds sequences in any order: each shares with the one before it, so lexicographic order shares most."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.completions: list[list[int]] = []
        self._tokens: list[int] = []
        self._positions: list[int] = []
        self._end: list[int] = []
        self._predictors: list[int] = []
        self._targets: list[int] = []
        self._path: list[int] = []  # rows of the sequence added last
        self._prompt: list[int] = []

    @property
    def n_rows(self) -> int:
        return len(self._tokens)

    def shared(self, prompt: list[int], completion: list[int]) -> int:
        """Rows that `prompt` + `completion` would share with the sequence added last."""
        n = _common_prefix(self._prompt, prompt)
        if self.pairs and n == len(prompt) == len(self._prompt):
            n += _common_prefix(self.completions[-1], completion)
        return min(n, len(self._path), max(len(prompt) + len(completion) - 1, 0))

    def add(self, pair: Pair, prompt: list[int], completion: list[int]) -> None:
        n_shared = self.shared(prompt, completion)
        for row in self._path[n_shared:]:
            self._end[row] = self.n_rows
        new = [*prompt, *completion[:-1]][n_shared:]
        self._path = self._path[:n_shared] + list(range(self.n_rows, self.n_rows + len(new)))
        self._tokens += new
        self._positions += range(n_shared, n_shared + len(new))
        self._end += [-1] * len(new)
        self._predictors += self._path[len(prompt) - 1 :]
        self._targets += completion
        self.pairs.append(pair)
        self.completions.append(completion)
        self._prompt = prompt

    def pack(self) -> Pack:
        for row in self._path:
            self._end[row] = self.n_rows
        arrays = (self._tokens, self._positions, self._end, self._predictors, self._targets)
        lengths = [len(completion) for completion in self.completions]
        return Pack(self.pairs, lengths, *(np.array(values, dtype=np.int64) for values in arrays))


def _common_prefix(a: list[int], b: list[int]) -> int:
    if a is b:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def attention_blocks(end_S: Ints, block_rows: int) -> list[Block]:
    """Partition the rows of a tree into blocks, in row order.

    A forest of at most `block_rows` rows is one block. In a larger one, a sibling whose subtree is too large becomes a
    chain (down to where it branches) and, below it, forests of their own; the smaller siblings are filled into blocks.
    """
    blocks: list[Block] = []
    forests: list[tuple[int, int, tuple[range, ...]]] = [(0, len(end_S), ())]

    def add(start: int, stop: int, path: tuple[range, ...]) -> None:
        if start < stop:
            blocks.append(Block(path, start, stop, bool((end_S[start:stop] == end_S[start]).all())))

    while forests:
        first, last, path = forests.pop()
        start = row = first
        while row < last:
            end = int(end_S[row])
            if end - row > block_rows:
                add(start, row, path)
                stop = row + 1
                while stop < end and end_S[stop] == end:
                    stop += 1
                add(row, stop, path)
                forests.append((stop, end, (*path, range(row, stop))))
                start = end
            elif end - start > block_rows:
                add(start, row, path)
                start = row
            row = end
        add(start, last, path)
    return sorted(blocks, key=lambda block: block.start)


def batch_blocks(blocks: Sequence[Block]) -> list[BlockBatch]:
    """Group blocks of similar shape (`PADDING`), causal ones apart: those need no mask and take the fast kernels."""
    batches: list[list[Block]] = []
    area = 0
    for block in sorted(blocks, key=lambda block: (block.is_causal, block.n_keys, block.n_queries)):
        area += block.n_queries * block.n_keys
        if batches and batches[-1][0].is_causal == block.is_causal:
            together = [*batches[-1], block]
            padded = len(together) * max(b.n_queries for b in together) * max(b.n_keys for b in together)
            if padded <= PADDING * area:
                batches[-1].append(block)
                continue
        batches.append([block])
        area = block.n_queries * block.n_keys
    return [_pad(sorted(batch, key=lambda block: block.start)) for batch in batches]


def _pad(blocks: list[Block]) -> BlockBatch:
    n_q, n_k = max(block.n_queries for block in blocks), max(block.n_keys for block in blocks)
    query_rows_BQ = np.zeros((len(blocks), n_q), dtype=np.int64)
    key_rows_BK = np.zeros((len(blocks), n_k), dtype=np.int64)
    for b, block in enumerate(blocks):
        query_rows_BQ[b] = block.start
        query_rows_BQ[b, : block.n_queries] = np.arange(block.start, block.stop)
        key_rows_BK[b, : block.n_keys] = np.concatenate([*block.path, range(block.start, block.stop)])
    n_queries_B = np.array([block.n_queries for block in blocks])
    n_keys_B = np.array([block.n_keys for block in blocks])
    return BlockBatch(
        query_rows_BQ,
        np.arange(n_q) < n_queries_B[:, None],
        key_rows_BK,
        np.arange(n_k) < n_keys_B[:, None],
        blocks[0].is_causal,
    )
