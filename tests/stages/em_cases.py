"""Small sets of votes and scores for the tests of EM."""

import numpy as np
import polars as pl

from denoise import noise
from denoise.dataset import Dataset
from denoise.tables import Provenance


def dataset(votes, n_pairs=None, *, first="a", pairs_extra=None, **columns):
    """Votes as (pair number, annotator, vote), on pairs `p0`, `p1` …"""
    numbers, annotators, choices = zip(*votes, strict=True)
    n_pairs = max(numbers) + 1 if n_pairs is None else n_pairs
    texts = {
        c: [f"{c} {i}" for i in range(n_pairs)] for c in ("prompt", "response_a", "response_b")
    }
    return Dataset(
        Provenance("import", {"source": "test"}, {"first": first}),
        pairs=pl.DataFrame({"pair_id": [f"p{i}" for i in range(n_pairs)], **texts}).with_columns(
            **(pairs_extra or {})
        ),
        votes=pl.DataFrame(
            {
                "vote_id": range(len(votes)),
                "pair_id": [f"p{i}" for i in numbers],
                "annotator_id": annotators,
                "vote": choices,
                **columns,
            }
        ),
    )


def score_table(margins, *, reference=True, ids=None):
    """Log-probs whose DPO margin of a over b at β = 0.1 is as given, and CPO's 11 times that."""
    n = len(margins)
    zeros = [0.0] * n if reference else [None] * n
    return pl.DataFrame(
        {
            "pair_id": [f"p{i}" for i in range(n)] if ids is None else ids,
            "policy_a_logps": [10.0 * m for m in margins],
            "policy_b_logps": [0.0] * n,
            "ref_a_logps": zeros,
            "ref_b_logps": zeros,
            "a_tokens": [4] * n,
            "b_tokens": [5] * n,
        },
        schema_overrides={"ref_a_logps": pl.Float64, "ref_b_logps": pl.Float64},
    )


VOTES = [
    (0, "u", "a"),
    (1, "u", "b"),
    (2, "v", "tie"),
    (2, "v2", "a"),
    (3, "v", "b"),
    (1, "v", "a"),
]
MARGINS = [2.0, 1.0, -0.5, 3.0]


def planted(n_votes=4000, n_annotators=10, n_pairs=2500, seed=0):
    generator = np.random.default_rng(seed)
    reliability = generator.uniform(0.4, 0.97, n_annotators)
    pair = generator.permutation(n_pairs * 2)[:n_votes] % n_pairs
    annotator = generator.integers(0, n_annotators, n_votes)
    margin = generator.normal(0, 2, n_pairs)
    truth = generator.random(n_pairs) < noise.sigmoid(margin)
    right = generator.random(n_votes) < reliability[annotator]
    for_a = truth[pair] == right
    votes = [
        (int(p), f"k{a}", "a" if yes else "b")
        for p, a, yes in zip(pair, annotator, for_a, strict=True)
    ]
    return dataset(votes, n_pairs), score_table(margin.tolist()), reliability
