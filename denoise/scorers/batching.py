"""How pairs are laid out in rows and rows in batches: plain arithmetic on lengths and ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from denoise.tokenise import TokenPair

PROMPT, SIDE_A, SIDE_B, PADDING = 0, 1, 2, 3


class Rows(NamedTuple):
    """A padded batch, and where in it the log-probs of which tokens are read.

    `ids`, `positions` and `segments` have the shape [rows, width]; a token attends to the earlier
    tokens of its own segment and of its row's prompt. The log-prob of token `target[i]` is read at
    row `row[i]`, column `column[i]`, and counts towards `owner[i]` = 2·pair + (0 for a, 1 for b).
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    row: np.ndarray
    column: np.ndarray
    target: np.ndarray
    owner: np.ndarray


class _Run(NamedTuple):
    """Tokens of one segment: the first stands at `position` of its sequence."""

    segment: int
    position: int
    ids: Sequence[int]


def token_budget(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Row numbers in batches of at most `budget` padded tokens (one row at least), longest first.

    Longest first, so that running out of memory comes at the start, and padding stays small.
    """
    order = np.lexsort((np.arange(len(lengths)), -lengths))
    batches, start = [], 0
    while start < len(order):
        count = max(1, budget // max(int(lengths[order[start]]), 1))
        batches.append(order[start : start + count])
        start += count
    return batches


def lots(pairs: Sequence[TokenPair], budget: int, is_reward: bool) -> list[np.ndarray]:
    """The batches of a job: a row a pair, or of a reward model two, as long as the longer one."""
    lengths = (2 * pair.longest if is_reward else pair.length for pair in pairs)
    return token_budget(np.fromiter(lengths, np.int64, len(pairs)), budget)


def with_some_of(batches: Iterable[np.ndarray], rows: np.ndarray) -> Iterator[np.ndarray]:
    """Those batches that hold some of the rows.

    They stay those of the whole job, whatever a kill has left: equal runs give equal numbers.
    """
    wanted = set(rows.tolist())
    return (batch for batch in batches if not wanted.isdisjoint(batch.tolist()))


def sequences(pairs: Sequence[TokenPair]) -> list[Sequence[int]]:
    """The ids of prompt + a and prompt + b of each pair, in that order: what a reward model reads.

    >>> sequences([TokenPair([1, 2], [3], [4, 5])])
    [[1, 2, 3], [1, 2, 4, 5]]
    """
    return [pair.sequence(side)[0] for pair in pairs for side in range(2)]


def highest_id(pairs: Sequence[TokenPair]) -> int:
    """The highest token id in all prompts and responses."""
    return max(max(map(max, filter(None, pair[:3]))) for pair in pairs)


def shared_rows(pairs: Sequence[TokenPair]) -> Rows:
    """A row a pair: prompt, a, b. The last token of a side predicts nothing and is left out.

    >>> rows = shared_rows([TokenPair([1, 2], [3, 4], [5, 6, 7])])
    >>> rows.ids.tolist(), rows.segments.tolist(), rows.positions.tolist()
    ([[1, 2, 3, 5, 6]], [[0, 0, 1, 2, 2]], [[0, 1, 2, 2, 3]])
    >>> rows.column.tolist(), rows.target.tolist(), rows.owner.tolist()
    ([1, 2, 1, 3, 4], [3, 4, 5, 6, 7], [0, 0, 1, 1, 1])
    """
    layout, reads = [], []
    for number, (prompt, a, b, a_skip, b_skip) in enumerate(pairs):
        n = len(prompt)
        a_inputs = a[:-1]
        layout.append([_Run(PROMPT, 0, prompt), _Run(SIDE_A, n, a_inputs), _Run(SIDE_B, n, b[:-1])])
        reads.append(_reads(number, 2 * number, n, n, a, a_skip))
        reads.append(_reads(number, 2 * number + 1, n, n + len(a_inputs), b, b_skip))
    return _pad(layout, reads)


def plain_rows(pairs: Sequence[TokenPair]) -> Rows:
    """Two rows a pair, prompt + a and prompt + b, under the ordinary causal mask."""
    layout, reads = [], []
    for number, (prompt, a, b, a_skip, b_skip) in enumerate(pairs):
        n = len(prompt)
        for side, (ids, skip) in enumerate(((a, a_skip), (b, b_skip))):
            reads.append(_reads(len(layout), 2 * number + side, n, n, ids, skip))
            layout.append([_Run(PROMPT, 0, prompt + ids[:-1])])
    return _pad(layout, reads)


def _reads(
    row: int, owner: int, prompt: int, start: int, ids: Sequence[int], skip: int
) -> Iterator[tuple[int, int, int, int]]:
    # Token 0 of a side is predicted by the prompt's last token, token t by token t − 1.
    for t in range(max(skip, 0 if prompt else 1), len(ids)):
        yield row, prompt - 1 if t == 0 else start + t - 1, ids[t], owner


def _pad(layout: list[list[_Run]], reads: list[Iterator[tuple[int, int, int, int]]]) -> Rows:
    width = max(sum(len(run.ids) for run in runs) for runs in layout)
    ids = np.zeros((len(layout), width), dtype=np.int64)
    positions = np.zeros_like(ids)
    segments = np.full_like(ids, PADDING)
    for row, runs in enumerate(layout):
        start = 0
        for run in runs:
            here = slice(start, start + len(run.ids))
            ids[row, here] = run.ids
            positions[row, here] = np.arange(run.position, run.position + len(run.ids))
            segments[row, here] = run.segment
            start = here.stop
    read = np.array([r for side in reads for r in side], dtype=np.int64).reshape(-1, 4)
    return Rows(ids, positions, segments, *np.ascontiguousarray(read.T))
