"""Preference votes with planted truth: what the engine is tested and measured on."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from denoise.dataset import Dataset
from denoise.noise import Floats, sigmoid
from denoise.tables import Provenance

Noise = Literal["random", "annotator", "class", "length", "position", "drift"]

SKILLED = (12.0, 2.0)
"""A skilled annotator's reliability is ½ + ½·Beta(12, 2): 0.93 on average."""

NOISES: tuple[Noise, ...] = get_args(Noise)


class Simulation(NamedTuple):
    """Votes with their truth; J pairs, K annotators, n votes.

    pair, annotator: codes, [n]; sign: +1 for a, −1 for b, [n]; margin: Δ of a over b as the model
    would say it, [J]; truth: whether a is truly preferred, [J]; reliability: η, [K].
    """

    pair: NDArray[np.int64]
    annotator: NDArray[np.int64]
    sign: NDArray[np.int8]
    margin: Floats
    truth: NDArray[np.bool_]
    reliability: Floats

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether each vote goes against the truth, [n]."""
        return (self.sign > 0) != self.truth[self.pair]

    def with_margin(self, margin: Floats) -> Simulation:
        """The same votes beside what another model would say of the pairs."""
        return self._replace(margin=margin)

    def dataset(self) -> Dataset:
        """The votes as `import` would give them, the margin as a column `margin` of the pairs."""
        ids = [f"pair-{i:07d}" for i in range(len(self.margin))]
        pairs = {"pair_id": ids, "margin": self.margin}
        pairs |= {name: ids for name in ("prompt", "response_a", "response_b")}
        names = pl.Series([f"annotator-{k:06d}" for k in range(len(self.reliability))])
        votes = {
            "vote_id": np.arange(len(self.pair)),
            "pair_id": pl.Series(ids).gather(self.pair),
            "annotator_id": names.gather(self.annotator),
            "vote": np.where(self.sign > 0, "a", "b"),
        }
        provenance = Provenance("import", {"source": "simulation"}, {"first": "a"})
        return Dataset(provenance, pl.DataFrame(pairs), pl.DataFrame(votes))


def planted_reliability(
    n_annotators: int, generator: np.random.Generator, *, careless: float = 0.15
) -> Floats:
    """η of annotators of whom a share `careless` is U(0.4, 0.6) and the rest `SKILLED`, [K]."""
    skilled = 0.5 + 0.5 * generator.beta(*SKILLED, n_annotators)
    chance = generator.uniform(0.4, 0.6, n_annotators)
    return np.where(generator.random(n_annotators) < careless, chance, skilled)


def simulate(
    n_pairs: int = 2000,
    n_annotators: int = 50,
    votes_per_pair: int = 4,
    *,
    spread: float = 2.0,
    reliability: Floats | None = None,
    seed: int = 0,
) -> Simulation:
    """Votes on pairs whose log-odds are N(0, spread²) and truth Bernoulli(σ(log-odds)).

    Each pair is voted on by `votes_per_pair` different annotators, drawn evenly. A `reliability`
    that is given decides the number of annotators.
    """
    generator = np.random.default_rng(seed)
    if reliability is None:
        reliability = planted_reliability(n_annotators, generator)
    margin = generator.normal(0.0, spread, n_pairs)
    truth = generator.random(n_pairs) < sigmoid(margin)
    pair, annotator = _ballot(n_pairs, len(reliability), votes_per_pair, generator)
    sign = _signs(truth[pair], reliability[annotator], generator)
    return Simulation(pair, annotator, sign, margin, truth, reliability)


def simulate_noise(
    kind: Noise,
    n_pairs: int = 2000,
    n_annotators: int = 50,
    votes_per_pair: int = 4,
    *,
    spread: float = 2.0,
    seed: int = 0,
) -> Simulation:
    """The pairs of `simulate` under one kind of noise; with each, a fifth of the votes is wrong.

    random: every vote is right with probability 0.8. annotator: `planted_reliability`, 30 %
    careless. class: right with 0.95 where a is truly preferred, with 0.65 where b is. length: a
    quarter of the votes go to the longer response, which is the same for all votes on a pair, and
    the rest are right with 0.9. position: the same with the response shown first, drawn for each
    vote. drift: each annotator falls from 0.95 to 0.65 from the first vote to the last.

    `reliability` is the annotator's probability of being right, averaged over its votes.
    """
    generator = np.random.default_rng(seed)
    margin = generator.normal(0.0, spread, n_pairs)
    truth = generator.random(n_pairs) < sigmoid(margin)
    pair, annotator = _ballot(n_pairs, n_annotators, votes_per_pair, generator)
    n = len(pair)
    if kind == "random":
        right = np.full(n, 0.8)
    elif kind == "annotator":
        right = planted_reliability(n_annotators, generator, careless=0.3)[annotator]
    elif kind == "class":
        right = np.where(truth[pair], 0.95, 0.65)
    elif kind == "length":
        right = 0.75 * 0.9 + 0.25 * (generator.random(n_pairs) < 0.5)[pair]
    elif kind == "position":
        right = 0.75 * 0.9 + 0.25 * (generator.random(n) < 0.5)
    elif kind == "drift":
        right = 0.95 - 0.3 * _progress(annotator)
    else:
        raise ValueError(f"unknown kind of noise {kind!r}, there are {', '.join(NOISES)}")
    votes = np.bincount(annotator, minlength=n_annotators)
    reliability = np.bincount(annotator, right, n_annotators) / np.maximum(votes, 1)
    sign = _signs(truth[pair], right, generator)
    return Simulation(pair, annotator, sign, margin, truth, reliability)


def reversed_margins(margin: Floats, share: float, seed: int = 0) -> Floats:
    """The margins with the sign of a random share of them turned."""
    turned = np.random.default_rng(seed).random(len(margin)) < share
    return np.where(turned, -margin, margin)


def _ballot(
    n_pairs: int, n_annotators: int, votes_per_pair: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Who votes on what: codes of pair and annotator, [n]; every set of annotators is as likely.

    Floyd's sampling without replacement, all pairs at once: its memory is that of the votes.
    """
    if not 1 <= votes_per_pair <= n_annotators:
        raise ValueError(f"{votes_per_pair} votes a pair by {n_annotators} different annotators")
    chosen = np.empty((n_pairs, votes_per_pair), np.int64)
    for i in range(votes_per_pair):
        last = n_annotators - votes_per_pair + i
        drawn = generator.integers(0, last + 1, n_pairs)
        taken = (chosen[:, :i] == drawn[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, last, drawn)
    return np.repeat(np.arange(n_pairs), votes_per_pair), chosen.ravel()


def _signs(
    preferred: NDArray[np.bool_], right: Floats, generator: np.random.Generator
) -> NDArray[np.int8]:
    """Votes, [n], on pairs where a is `preferred` or not, each right with its probability."""
    agrees = generator.random(len(right)) < right
    return np.where(preferred == agrees, 1, -1).astype(np.int8)


def _progress(annotator: NDArray[np.int64]) -> Floats:
    """How far each vote is through its annotator's votes, from 0 to 1, [n]."""
    order = np.argsort(annotator, kind="stable")
    votes = np.bincount(annotator)
    first = np.cumsum(votes) - votes
    rank = np.empty(len(annotator))
    rank[order] = np.arange(len(annotator)) - first[annotator[order]]
    return rank / np.maximum(votes[annotator] - 1, 1)
