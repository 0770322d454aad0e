"""Whose answers tell something of the truth: spammers tell nothing, adversaries the contrary."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denoise.noise import Floats
from denoise.quality.finding import Finding
from denoise.quality.mixture import Share, share
from denoise.quality.others import Crowd

INFORMED = 0.5
"""A spammer is shown to be informed in less than this share of answers. With two even classes it
is an accuracy of 75 %."""

CHANCE = 0.01
"""A spammer's answers are also not shown to tell anything, at this level."""

MOST_SURE = 0.05
"""A score is taken at a share no nearer to 0 or 1, so that no single vote outweighs all others."""


class Skill(NamedTuple):
    """informed: the share of answers, of each of K annotators, that follow the truth; below 0 more
    go against it than by chance. spammer, adversary: findings, both with that share as effect.
    score: of each vote, ∂/∂s log P(vote) at the annotator's own s: how much it speaks for a larger
    share, [n]; a vote on which the others are in doubt speaks for little."""

    informed: Share
    spammer: Finding
    adversary: Finding
    score: Floats


def skill(crowd: Crowd, truth: Floats) -> Skill:
    """Which annotators tell nothing of the truth, and which tell its contrary.

    An annotator k gives the true label with probability s, and else label l with probability
    m_kl, his own share of it: P(l | others) = s·P(truth is l | others) + (1 − s)·m_kl (the model of
    Hovy et al., *Learning whom to trust with MACE*, NAACL 2013, at truths that he has no part in).
    So one who always gives the commonest answer is a spammer, however often he is right.

    Args:
        truth: P(truth | the others' votes), by vote, [n, C] (`Crowd.without_own`).
    """
    votes = crowd.votes
    tally = votes.tally + 1.0 / votes.n_classes
    usual = (tally / tally.sum(1, keepdims=True))[votes.annotator]
    # Below this s some label, though he did not give it, would have a probability below 0.
    rise = truth - usual
    bound = -np.divide(usual, rise, out=np.full(rise.shape, np.inf), where=rise > 0).min(1)
    least = np.full(votes.n_annotators, -np.inf)
    np.maximum.at(least, votes.annotator, bound)
    every = np.arange(len(bound)), votes.label
    informed = share(votes.annotator, usual[every], rise[every], votes.n_annotators, least)
    n = votes.votes_per_annotator.astype(np.float64)
    bounds = (informed.value, informed.low, informed.high, n)
    tells_nothing = np.minimum(informed.above(0.0), informed.below(0.0)) > CHANCE / 2
    weak = np.where(tells_nothing | ~(n > 0), informed.below(INFORMED), 1.0)
    s = np.clip(informed.value, MOST_SURE, 1.0 - MOST_SURE)[votes.annotator]
    score = rise[every] / (usual[every] + s * rise[every])
    return Skill(informed, Finding(weak, *bounds), Finding(informed.below(0.0), *bounds), score)
