"""Paper mode of the EM stage: what it gives, refuses, and must not depend on."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
from em_cases import MARGINS, VOTES, dataset, planted, score_table
from hypothesis import given, settings
from hypothesis import strategies as st

from denoise import losses, noise, schema
from denoise.errors import InputError
from denoise.stages import em as stage
from denoise.tables import Provenance

em = partial(stage.em, mode="paper")


def test_confidences_are_equation_4_row_by_row():
    result = em(dataset(VOTES), score_table(MARGINS), max_iterations=3)
    rows = result.confidences
    assert not schema.faults(rows, schema.CONFIDENCES, "confidences")
    assert rows["vote_id"].to_list() == list(range(6))
    assert rows["margin"].to_list() == pytest.approx([2.0, -1.0, None, -0.5, -3.0, 1.0])
    # The fit by itself, on the oriented votes: annotators u, v, v2.
    margin, annotator = np.array([2.0, -1, -0.5, -3, 1]), np.array([0, 0, 2, 1, 1])
    fit = noise.fit_full_batch(margin, annotator, 3, max_iterations=3)
    eta = dict(zip(("u", "v", "v2"), fit.reliability, strict=True))
    for row in rows.filter(pl.col("vote") != "tie").iter_rows(named=True):
        k = eta[row["annotator_id"]]
        expected = 1 / (1 + math.exp(-row["margin"] - math.log(k / (1 - k))))
        assert row["confidence"] == pytest.approx(expected, rel=1e-12)
        assert row["prob"] == pytest.approx(1 / (1 + math.exp(-row["margin"])))
    tie = rows.row(2, named=True)
    assert (tie["margin"], tie["prob"], tie["confidence"]) == (None, None, None)
    assert result.summary["objective"] == pytest.approx(
        noise.objective(margin, annotator, fit.reliability)
    )


def test_the_posterior_of_a_pair_is_given_where_it_has_one_vote():
    rows = em(dataset(VOTES), score_table(MARGINS)).confidences
    w = rows["confidence"].to_list()
    # Pair 1 has two votes; the tie on pair 2 does not count beside v2's vote for a.
    expected = [w[0], None, w[3], w[3], 1 - w[4], None]
    assert rows["pair_posterior"].to_list() == pytest.approx(expected)


def test_summary_counts_and_notes():
    result = em(dataset(VOTES), score_table(MARGINS[:3]))
    counted = {
        "n_votes": 6,
        "n_ties": 1,
        "n_contradicted": 0,
        "n_repeated": 0,
        "n_unscored": 1,
        "n_pairs": 4,
        "n_pairs_several": 1,
        "n_pairs_conflicting": 1,
        "n_annotators": 3,
    }
    assert {name: result.summary[name] for name in counted} == counted
    wrong = (1 - result.confidences["confidence"].drop_nulls()).sum()
    assert result.summary["expected_wrong"] == pytest.approx(wrong)
    assert result.summary["expected_wrong_share"] == pytest.approx(wrong / 5)
    assert result.summary["run_id"] == result.provenance.run_id
    said = " ".join(result.notes)
    assert "1 of 6 votes have no margin" in said
    assert "1 of 4 pairs have several votes (1 in conflict)" in said


def test_a_vote_without_a_score_has_its_annotators_reliability_and_teaches_nothing():
    votes = [(0, "u", "a"), (1, "u", "b"), (2, "u", "a"), (3, "w", "a")]
    with_it = em(dataset(votes), score_table([2.0, -1.0]))
    without = em(dataset(votes[:2]), score_table([2.0, -1.0]))
    eta = without.annotators["reliability"][0]
    row = with_it.confidences.row(2, named=True)
    assert (row["margin"], row["prob"]) == (None, 0.5)
    assert row["confidence"] == pytest.approx(eta, abs=1e-15)
    unseen = with_it.annotators.row(1, named=True)
    assert unseen["annotator_id"] == "w" and unseen["reliability"] is None
    assert unseen["flags"] == ["few votes", "not identified"]
    assert with_it.confidences["confidence"][3] == pytest.approx(0.9)


def test_planted_reliabilities_are_within_their_intervals():
    """10 annotators at 95 %: fewer than 7 covered has a chance of 1e-3; errors are within 5 SE."""
    data, scores, reliability = planted()
    result = em(data, scores)
    found = result.annotators
    columns = ("reliability_low", "reliability", "reliability_high")
    low, estimate, high = (found[name].to_numpy() for name in columns)
    assert ((low <= reliability) & (reliability <= high)).sum() >= 7
    assert (np.abs(estimate - reliability) < 5 * (high - low) / 3.9).all()
    below = [
        name for name, eta in zip(found["annotator_id"], reliability, strict=True) if eta < 0.47
    ]
    flagged = found.filter(pl.col("flags").list.contains("below chance"))["annotator_id"].to_list()
    assert set(below) <= set(flagged)
    assert result.summary["converged"] and result.trace["temperature"].unique().to_list() == [1.0]


def test_agreement_is_with_the_majority_of_the_others():
    votes = [
        *[(0, k, v) for k, v in zip("xyz", "aab", strict=True)],  # x, y see a-b even; z loses
        *[(1, k, v) for k, v in zip("wxyz", "aaab", strict=True)],  # w, x, y agree; z does not
        (2, "x", "a"),
    ]
    found = em(dataset(votes), score_table([1.0, 1.0, 1.0])).annotators
    agreement = dict(found.select("annotator_id", "agreement").iter_rows())
    assert agreement == {"w": 1.0, "x": 1.0, "y": 1.0, "z": 0.0}
    alone = em(dataset([(0, "x", "a")]), score_table([1.0])).annotators
    assert alone["agreement"].to_list() == [None]


def test_repeated_votes_of_a_named_annotator_count_once_and_of_all_each():
    votes = [(0, "u", "a"), (0, "u", "a"), (1, "u", "b")]
    scores = score_table([2.0, 1.0])
    twice, once = em(dataset(votes), scores), em(dataset(votes[1:]), scores)
    assert twice.annotators["reliability"][0] == once.annotators["reliability"][0]
    assert twice.confidences["confidence"][0] == twice.confidences["confidence"][1]
    assert twice.confidences["pair_posterior"][0] == twice.confidences["confidence"][0]
    assert twice.summary["n_repeated"] == 1
    anyone = [(p, "all", v) for p, _, v in votes]
    everyone = em(dataset(anyone), scores)
    assert everyone.summary["n_repeated"] == 0
    assert everyone.annotators["reliability"][0] != twice.annotators["reliability"][0]


def test_contradicting_votes_of_a_named_annotator_become_ties():
    result = em(dataset([(0, "u", "a"), (0, "u", "b"), (1, "u", "a")]), score_table([1.0, 2.0]))
    assert result.confidences["vote"].to_list() == ["tie", "tie", "a"]
    assert result.confidences["confidence"].null_count() == 2
    assert result.summary["n_contradicted"] == 2
    assert any("contradict" in note for note in result.notes)


ballots = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from("uvw"), st.sampled_from(["a", "b", "tie"])),
    min_size=4,
    max_size=25,
).filter(lambda votes: any(vote != "tie" for *_, vote in votes))


@settings(max_examples=25, deadline=None)
@given(ballots, st.lists(st.floats(-6, 6), min_size=6, max_size=6), st.integers(0, 99))
@pytest.mark.parametrize("schedule", ["full", "ema"])
def test_row_order_names_and_orientation_do_not_matter(schedule, votes, margins, seed):
    generator = np.random.default_rng(seed)
    data = dataset(votes, 6)
    options = {"schedule": schedule, "max_iterations": 30, "batch_size": 4, "epochs": 2}
    try:
        plain = em(data, score_table(margins), **options)
    except InputError:  # every vote contradicts another
        return
    names = {"u": "z", "v": "y", "w": "x"}
    flipped = {f"p{i}" for i in generator.permutation(6)[:3]}
    flip = pl.col("pair_id").is_in(flipped)
    other_side = pl.col("vote").replace({"a": "b", "b": "a"})
    moved = replace(
        data,
        pairs=data.pairs.sample(fraction=1, shuffle=True, seed=seed).with_columns(
            pl.when(flip).then("response_b").otherwise("response_a").alias("response_a"),
            pl.when(flip).then("response_a").otherwise("response_b").alias("response_b"),
        ),
        votes=data.votes.sample(fraction=1, shuffle=True, seed=seed).with_columns(
            pl.col("annotator_id").replace(names),
            vote=pl.when(flip).then(other_side).otherwise("vote"),
        ),
    )
    signs = [-1 if f"p{i}" in flipped else 1 for i in range(6)]
    scores = score_table([m * s for m, s in zip(margins, signs, strict=True)])
    again = em(moved, scores.sample(fraction=1, shuffle=True, seed=seed), **options)
    assert again.confidences["vote_id"].to_list() == moved.votes["vote_id"].to_list()
    one, two = (r.confidences.sort("vote_id") for r in (plain, again))
    same = {"abs": 1e-9, "nan_ok": True}
    assert two["confidence"].to_list() == pytest.approx(one["confidence"].to_list(), **same)
    back = two["pair_id"].is_in(list(flipped))
    posterior = two.select(
        pl.when(back).then(1 - pl.col("pair_posterior")).otherwise("pair_posterior")
    ).to_series()
    assert posterior.to_list() == pytest.approx(one["pair_posterior"].to_list(), **same)
    ones = plain.annotators.with_columns(pl.col("annotator_id").replace(names))
    ones, twos = ones.sort("annotator_id"), again.annotators.sort("annotator_id")
    for name in ("reliability", "reliability_low", "reliability_high", "agreement"):
        assert twos[name].to_list() == pytest.approx(ones[name].to_list(), abs=1e-7)
    assert twos.select("annotator_id", "n_votes", "flags").equals(
        ones.select("annotator_id", "n_votes", "flags")
    )


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_the_margins_are_those_of_the_loss(loss):
    scores = score_table(MARGINS)
    result = em(dataset(VOTES), scores, loss=loss, beta=0.5, max_iterations=2)
    columns = ("policy_a_logps", "policy_b_logps", "ref_a_logps", "ref_b_logps")
    logps = losses.PairLogps(*(scores[c].to_numpy() for c in (*columns, "a_tokens", "b_tokens")))
    for_a = losses.margin(loss, logps, beta=0.5)
    expected = [for_a[0], -for_a[1], None, for_a[2], -for_a[3], for_a[1]]
    assert result.confidences["margin"].to_list() == pytest.approx(expected)
    assert result.summary["settings"]["loss"] == loss


def test_a_column_of_the_source_never_takes_the_place_of_the_models_margin():
    own = [9.0] * len(VOTES)
    clean = em(dataset(VOTES), score_table(MARGINS)).confidences
    clashing = dataset(VOTES, margin=own, pairs_extra={"rm": pl.Series(MARGINS)})
    assert em(clashing, score_table(MARGINS)).confidences.equals(clean)
    assert em(clashing, margin_column="rm").confidences["margin"].equals(clean["margin"])


def test_simpo_needs_no_reference_and_dpo_does():
    scores = score_table(MARGINS, reference=False)
    assert em(dataset(VOTES), scores, loss="simpo").summary["settings"]["gamma"] == losses.GAMMA
    with pytest.raises(InputError, match=r"scores: row 0, column 'ref_a_logps'.*--reference"):
        em(dataset(VOTES), scores)


@pytest.mark.parametrize("given", [{"beta": 0.5}, {"gamma": 1.0}, {"ipo_sum": True}])
def test_settings_of_a_loss_without_scores_are_refused(given):
    data = dataset(VOTES, m=[1.0] * len(VOTES))
    for evidence in ({}, {"margin_column": "m"}):
        with pytest.raises(InputError, match=f"{next(iter(given))} means nothing without scores"):
            em(data, **evidence, **given)
    with pytest.raises(InputError, match="unknown loss"):
        em(data, loss="orpo")


def test_a_margin_of_the_votes_is_the_first_response_less_the_second_of_the_source_row():
    votes = [(0, "u", "a"), (1, "u", "b"), (2, "v", "b")]
    values = [1.0, 2.0, -3.0]
    along = lambda data: em(data, margin_column="m").confidences["margin"].to_list()  # noqa: E731
    assert along(dataset(votes, m=values)) == [1.0, -2.0, 3.0]
    assert along(dataset(votes, m=values, first="chosen")) == [1.0, 2.0, -3.0]
    swapped = [False, True, True]
    assert along(dataset(votes, m=values, swapped=swapped)) == [1.0, 2.0, -3.0]


def test_what_says_which_response_is_first_is_true_or_false():
    data = dataset([(0, "u", "a")], m=[1.0], swapped=["yes"])
    with pytest.raises(InputError, match="column 'swapped': wrong type"):
        em(data, margin_column="m")


def test_a_bad_value_is_named_by_its_row_in_the_source():
    data = dataset([(0, "u", "a"), (1, "u", "b")], m=[1.0, math.nan])
    data = replace(data, votes=data.votes.with_columns(vote_id=pl.Series([3, 8])))
    with pytest.raises(InputError, match="votes: row 8, column 'm'"):
        em(data, margin_column="m")


def test_a_margin_of_the_pairs_is_a_less_b():
    data = dataset([(0, "u", "a"), (0, "v", "b")], first="chosen", pairs_extra={"m": pl.lit(1.5)})
    assert em(data, margin_column="m").confidences["margin"].to_list() == [1.5, -1.5]


def test_probabilities_become_log_odds_and_certain_ones_stay_finite():
    data = dataset([(0, "u", "a"), (1, "u", "b"), (2, "u", "a")], m=[0.8, 1.0, None])
    result = em(data, prob_column="m")
    edge = math.log(noise.EDGE)
    assert result.confidences["margin"].to_list() == pytest.approx([math.log(4), edge, None])
    assert any("1 value(s) of m are exactly 0 or 1" in note for note in result.notes)


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([0.1, math.nan, 0.3], "margin_column", "votes: row 1, column 'm': 1 value"),
        ([0.1, 0.2, math.inf], "margin_column", "row 2"),
        ([0.1, 1.2, 0.3], "prob_column", "not probabilities, found 1.2"),
        (["x", "y", "z"], "margin_column", "wrong type"),
        ([None, None, None], "margin_column", "wrong type"),
    ],
)
def test_bad_columns_are_refused(values, kind, said):
    data = dataset([(0, "u", "a"), (1, "u", "b"), (2, "u", "a")], m=values)
    with pytest.raises(InputError, match=said):
        em(data, **{kind: "m"})


def test_a_missing_column_is_refused_with_what_there_is():
    with pytest.raises(InputError, match=r"columns of numbers are 'vote_id', 'm'"):
        em(dataset([(0, "u", "a")], m=[1.0]), margin_column="margins")


def test_without_evidence_paper_mode_says_that_it_learns_nothing():
    result = em(dataset(VOTES))
    assert result.confidences["confidence"].drop_nulls().to_list() == pytest.approx([0.9] * 5)
    assert result.annotators["reliability"].null_count() == 3
    assert result.annotators["reliability_low"].null_count() == 3
    assert all("not identified" in flags for flags in result.annotators["flags"])
    assert any("no evidence of a model" in note for note in result.notes)
    assert result.summary["mean_reliability"] is None


def test_one_virtual_annotator_without_curvature_is_said_to_be_unidentified():
    data = dataset([(i, "all", "a") for i in range(20)])
    result = em(data, score_table([0.001] * 20))
    assert result.annotators["flags"].to_list() == [["not identified"]]
    assert any("the one reliability is not identified" in note for note in result.notes)


def test_ema_uses_its_settings_and_an_epoch_is_a_row_of_the_trace():
    data, scores, _ = planted(500, 3, n_pairs=500)
    data = replace(
        data,
        votes=data.votes.unique(["pair_id", "annotator_id"], keep="first", maintain_order=True),
    )
    result = em(data, scores, schedule="ema", alpha=0.2, batch_size=16, epochs=3, seed=5)
    assert result.trace["stage"].unique().to_list() == ["ema"] and len(result.trace) == 4
    margin = result.confidences["margin"].to_numpy()
    code = result.confidences["annotator_id"].str.slice(1).cast(pl.Int32).to_numpy()
    options = {"alpha": 0.2, "batch_size": 16, "epochs": 3, "seed": 5}
    fit = noise.fit_ema(margin, code, 3, **options)
    np.testing.assert_allclose(result.annotators["reliability"], fit.reliability, atol=1e-12)
    assert result.summary["converged"] is None
    assert result.summary["settings"]["alpha"] == 0.2


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"schedule": "batch"}, "schedule"),
        ({"eta0": 1.0}, "eta0"),
        ({"alpha": 0.0}, "alpha"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"mode": "best"}, "mode is out of range"),
        ({"beta": -0.1}, "beta"),
        ({"gamma": 0.5}, "gamma means nothing to the loss dpo"),
        ({"loss": "simpo", "gamma": -1.0}, "gamma"),
        ({"ipo_sum": True}, "ipo_sum"),
        ({"loss": "orpo"}, "unknown loss"),
        ({"margin_column": "m"}, "exclude each other"),
    ],
)
def test_settings_out_of_range_are_refused(setting, said):
    with pytest.raises(InputError, match=said):
        em(dataset(VOTES), score_table(MARGINS), **setting)


def test_scores_of_other_pairs_are_refused():
    data, scores = dataset(VOTES), score_table(MARGINS)
    made = Provenance("score", {"pairs": schema.pairs_hash(data.pairs)}, {})
    assert em(data, scores, scores_provenance=made).provenance.inputs["scores"] == made.run_id
    stale = Provenance("score", {"pairs": "0" * 32}, {})
    with pytest.raises(InputError, match="stale"):
        em(data, scores, scores_provenance=stale)
    foreign = score_table(MARGINS, ids=["p0", "p1", "q", "p3"])
    with pytest.raises(InputError, match=r"scores: row 2, column 'pair_id': 1 score.*found 'q'"):
        em(data, foreign)


def test_nothing_scored_or_nothing_but_ties_is_refused():
    with pytest.raises(InputError, match="no vote for a or b has a margin"):
        em(dataset([(0, "u", "a")], 2), score_table([1.0], ids=["p1"]))
    with pytest.raises(InputError, match="all are ties"):
        em(dataset([(0, "u", "tie")]), score_table([1.0]))


@pytest.mark.parametrize(
    ("rule", "loss", "warned"),
    [("trl-dpo", "simpo", True), ("trl-cpo", "dpo", True), ("trl-dpo", "ipo", False)],
)
def test_tokenisation_of_another_trainer_is_said(rule, loss, warned):
    made = Provenance("score", {}, {"tokenize": rule})
    result = em(dataset(VOTES), score_table(MARGINS), loss=loss, scores_provenance=made)
    assert any("special tokens" in note for note in result.notes) is warned


def test_not_converging_is_in_the_notes():
    result = em(dataset(VOTES), score_table(MARGINS), max_iterations=1)
    assert result.summary["converged"] is False
    assert any("did not converge" in note for note in result.notes)
