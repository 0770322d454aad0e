"""The votes in parts of whole pairs, each held by a worker of a Ray cluster."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from denoise.cluster import got
from denoise.noise import Floats
from denoise.pooled import index
from denoise.pooled.ballots import Ballots, added, sampled
from denoise.pooled.index import Keys, Rows
from denoise.stages.stream.confidences import Columns, of_rows
from denoise.stages.stream.tally import Tally, of_every_pair, voted_pairs

T = TypeVar("T")


class Pieces(NamedTuple):
    """What a part is made of: arrays of equal length by lot of row groups, rows of the files.

    pairs: keys and margins; scores: keys, Δ, rows and the number of the file; votes: keys,
    `4 · annotator + vote` by the lot's own names, and rows. Each lot is a reference of Ray's.
    """

    pairs: Sequence[Any]
    scores: Sequence[Any]
    votes: Sequence[Any]


class Common(NamedTuple):
    """What all parts are told.

    codes: the annotators' codes by those of each lot of votes; shared: as in `index.group`; known:
    keys of pairs with known answers, and these as 1 or −1.
    """

    codes: Sequence[NDArray[np.int32]]
    n_annotators: int
    shared: int
    known: tuple[Keys, NDArray[np.int8]]
    threads: int


class Report(NamedTuple):
    """What a part is, and the first of each thing that is wrong with it.

    repeated: keys of several pairs; answered: which of the known answers of `Common` are of pairs
    here; foreign_score, second_score: number of the file and row; foreign_votes: their number
    and the first row.
    """

    repeated: Keys
    answered: NDArray[np.bool_]
    foreign_score: tuple[int, int] | None = None
    second_score: tuple[int, int] | None = None
    foreign_votes: tuple[int, int] | None = None
    n_pairs: int = 0
    n_votes: int = 0
    single: bool = True
    has_margins: bool = False
    n_known: int = 0
    used: NDArray[np.int64] | None = None
    tally: Tally | None = None


class Held:
    """Something that every part holds, under this number, until the driver's is gone."""

    def __init__(self, number: int) -> None:
        self.number = number


class Lost(Exception):
    """What a worker held is lost with it."""


class Part:
    """A part, on the worker that holds it."""

    def __init__(self, pieces: Pieces, common: Common) -> None:
        """Group the votes; `said` tells what came of it."""
        import ray

        self.held: dict[int, Any] = {}
        self.report = self._build(Pieces(*(ray.get(list(lots)) for lots in pieces)), common)

    def _build(self, pieces: Pieces, common: Common) -> Report:
        keys = np.concatenate([keys for keys, _ in pieces.pairs])
        of_pairs = np.concatenate([margin for _, margin in pieces.pairs])
        found = index.build_index(keys.copy())
        here = found.codes(common.known[0])
        answered, repeated = here >= 0, index.repeated_keys(found)
        if len(repeated):
            return Report(repeated, answered)
        self.margin = np.full(len(keys), np.nan)
        self.margin[found.codes(keys)] = of_pairs
        for keys, delta, rows, file in pieces.scores:
            codes = found.codes(keys)
            if (codes < 0).any():
                first = int(np.argmax(codes < 0))
                return Report(repeated, answered, (int(file[first]), int(rows[first])))
            again = index.fill(codes, delta, self.margin)
            if again >= 0:
                second = int(file[again]), int(rows[again])
                return Report(repeated, answered, second_score=second)
        self._read_votes(found, pieces, common)
        if self.foreign is not None:
            return Report(repeated, answered, foreign_votes=self.foreign)
        self.known = np.zeros(len(self.margin) if len(common.known[0]) else 0, np.int8)
        self.known[here[answered]] = common.known[1][answered]
        start = np.zeros(len(self.margin) + 1, np.int64)
        index.count((self.rows >> 32).astype(np.int32), start, common.threads)
        self.rank = np.arange(common.n_annotators, dtype=np.int32)
        rest = (self.rank, common.shared, self.margin, common.threads)
        grouped = index.group(lambda: [self.rows], start, *rest)
        self.contradicted = grouped.contradicted
        self.votes, self.voted = voted_pairs(grouped, self.margin, self.known, common.threads)
        self.unscored = grouped.state & index.UNSCORED > 0
        tally = Tally(grouped.rows, grouped.told, grouped.agree, grouped.counts)
        return Report(
            repeated,
            answered,
            n_pairs=len(self.votes.margin),
            n_votes=self.votes.n_votes,
            single=self.votes.single,
            has_margins=self.votes.has_margins,
            n_known=self.votes.n_known,
            used=grouped.used,
            tally=tally,
        )

    def _read_votes(self, found: index.PairIndex, pieces: Pieces, common: Common) -> None:
        """The rows in the order of the file, and the number and first of those of no pair."""
        rows, places, foreign = [], [], []
        for (keys, cell, place), codes in zip(pieces.votes, common.codes, strict=True):
            pair = found.codes(keys)
            rows.append(index.to_rows(pair, 4 * codes[cell >> 2] + (cell & 3)))
            places.append(place)
            foreign.append(place[pair < 0])
        self.rows: Rows = np.concatenate(rows)
        self.places = np.concatenate(places)
        wrong = np.concatenate(foreign)
        self.foreign = (len(wrong), int(wrong.min())) if len(wrong) else None

    def said(self) -> Report:
        """The report."""
        return self.report

    def run(
        self,
        work: Callable[..., T],
        given: Sequence[Any],
        keep: int | None,
        dropped: Sequence[int],
    ) -> T | None:
        """`work` of the votes here, kept under a number where one is given."""
        for number in dropped:
            self.held.pop(number, None)
        if any(isinstance(each, Held) and each.number not in self.held for each in given):
            raise Lost  # by the worker in whose place this one is
        mine = (self.held[each.number] if isinstance(each, Held) else each for each in given)
        made = work(self.votes, *mine)
        if keep is None:
            return made
        self.held[keep] = made
        return None

    def conclude(self, log_odds: Floats, tau: float) -> None:
        """Take s of the pairs that are voted on, for `values`."""
        # The votes may hold the very margins, and the fit is not to see what is missing.
        margin = np.where(self.unscored, np.nan, self.margin)
        truth = np.stack([of_every_pair(log_odds, self.voted), margin], axis=1)
        self.columns = Columns(self.rank, truth, self.known, self.contradicted, tau)

    def values(self, first: int, last: int) -> tuple[NDArray[np.generic], ...]:
        """The place of each row from `first` up to `last` of the file, and its `of_rows`."""
        begin, end = np.searchsorted(self.places, [first, last])
        return (
            self.places[begin:end] - first,
            *of_rows(self.rows[begin:end], self.columns, self.votes.threads),
        )


class Partitions:
    """The votes of all parts, as `pooled.ballots.Votes` has it; the numbers are those of `Ballots`.

    A worker that dies is replaced by one that reads its pairs again.

    Args:
        ray: the module, connected.
        make: starts the worker of a part.
        parts: the workers.
        reports: what they said.
    """

    def __init__(
        self,
        ray: Any,
        make: Callable[[int], Any],
        parts: Sequence[Any],
        reports: Sequence[Report],
    ) -> None:
        self.ray, self.make, self.parts = ray, make, list(parts)
        self.sizes = [report.n_pairs for report in reports]
        self.counts = [report.n_votes for report in reports]
        self.n_votes = sum(self.counts)
        self.single = all(report.single for report in reports)
        self.has_margins = any(report.has_margins for report in reports)
        self.n_known = sum(report.n_known for report in reports)
        self.votes = sum(report.used for report in reports).astype(np.float64)
        self.n_annotators, self.n_levels = len(self.votes), 1
        self.annotator = np.arange(self.n_annotators)
        self.level = np.zeros(self.n_annotators, np.int64)
        self._next, self._dropped = 0, []
        self._concluded: list[tuple[Floats, float]] | None = None

    def by_annotator(self, of_cells: Floats) -> Floats:
        """A cell is an annotator."""
        return of_cells

    def each(self, statistic: Callable[..., T], *given: Any) -> list[T]:
        """`statistic(part, *given)` of every part, in the order of the pairs."""
        return self._run(statistic, given, None)

    def hold(self, made: Callable[..., T], *given: Any) -> T:
        """`made(part, *given)`, held by the workers."""
        held = Held(self._next)
        self._next += 1
        weakref.finalize(held, self._dropped.append, held.number)
        self._run(made, given, held.number)
        return held  # type: ignore[return-value]

    def again(self, work: Callable[[], T]) -> T:
        """`work()`, from its beginning where what it holds was lost."""
        while True:
            try:
                return work()
            except Lost:
                continue

    def sample(self, at_most: int) -> Ballots:
        """The votes on the pairs that `Ballots.sample` would take of all, in one place."""
        n_pairs = sum(self.sizes)
        every = self.n_votes <= at_most
        kept = np.arange(n_pairs) if every else sampled(n_pairs, self.n_votes, at_most)
        edges = np.concatenate(([0], np.cumsum(self.sizes)))
        given = [
            (kept[(kept >= first) & (kept < last)] - first,)
            for first, last in itertools.pairwise(edges)
        ]
        parts = self._run(Ballots.of_pairs, given, None, by_part=True)
        return joined(parts, self.n_known > 0)

    def _run(
        self,
        work: Callable[..., T],
        given: Sequence[Any],
        keep: int | None,
        by_part: bool = False,
    ) -> list[T]:
        """`given` is of each part where `by_part`.

        Raises:
            Lost: something of `given` was held by a worker that died.
        """
        dropped, self._dropped[:] = list(self._dropped), []
        shared = None if by_part else self.ray.put(given)

        def ask(number: int) -> Any:
            what = given[number] if by_part else shared
            return self.parts[number].run.remote(work, what, keep, dropped)

        return self._answers(ask)

    def _answers(self, ask: Callable[[int], Any]) -> list[Any]:
        """What every worker says; one that has died is replaced and asked once more."""
        refs, answers = [ask(number) for number in range(len(self.parts))], []
        for number, ref in enumerate(refs):
            while True:
                try:
                    answers.append(got(self.ray, ref))
                    break
                except self.ray.exceptions.RayActorError:
                    self._replace(number)
                    ref = ask(number)
        return answers

    def _replace(self, number: int) -> None:
        self.parts[number] = self.make(number)
        if self._concluded is not None:
            self._conclude(number)

    def conclude(self, log_odds: Floats, tau: float) -> None:
        """Tell the workers s of the pairs, [J], for `values`."""
        edges = np.cumsum(self.sizes)[:-1]
        self._concluded = [(piece, tau) for piece in np.split(log_odds, edges)]
        for number in range(len(self.parts)):
            self._conclude(number)

    def _conclude(self, number: int) -> None:
        self.parts[number].conclude.remote(*self._concluded[number])

    def values(self, first: int, count: int) -> tuple[NDArray[np.generic], ...]:
        """`of_rows` of so many rows of the file from a first one on, in their order."""

        def ask(number: int) -> Any:
            return self.parts[number].values.remote(first, first + count)

        pieces = self._answers(ask)
        place, *columns = (np.concatenate(each) for each in zip(*pieces, strict=True))
        order = np.argsort(place)
        return tuple(column[order] for column in columns)


def joined(parts: Sequence[Ballots], known: bool) -> Ballots:
    """The votes of parts in one; `known`: whether any has known answers."""
    counts = np.concatenate([np.diff(part.start) for part in parts])
    answers = [
        part.known if len(part.known) else np.zeros(len(part.margin), np.int8) for part in parts
    ]
    return parts[0]._replace(
        start=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        code=np.concatenate([part.code for part in parts]),
        margin=np.concatenate([part.margin for part in parts]),
        known=np.concatenate(answers) if known else np.empty(0, np.int8),
        votes=sum(part.votes for part in parts),
    )


def total(tallies: Sequence[Tally]) -> Tally:
    """The sums of all."""
    by_annotator = added([tally[:3] for tally in tallies])
    counts = {name: sum(tally.counts[name] for tally in tallies) for name in tallies[0].counts}
    return Tally(*by_annotator, counts)
