"""Auto mode of the EM stage: pooling, calibration, known answers, strengths, earlier runs."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoise.dataset import Dataset
from denoise.errors import InputError
from denoise.noise import log_odds, sigmoid
from denoise.simulate import reversed_margins, simulate
from denoise.stages.em import em, read_em, write_em
from denoise.stages.export import export


def reliabilities(result, n):
    """η by the simulator's number; NaN where there is none."""
    eta = np.full(n, np.nan)
    for name, value in result.annotators.select("annotator_id", "reliability").iter_rows():
        eta[int(name.removeprefix("annotator-"))] = np.nan if value is None else value
    return eta


def auc(confidence, wrong):
    """Probability that a wrong label has a lower confidence than a right one."""
    order = np.argsort(np.argsort(confidence))
    n = wrong.sum()
    return 1 - (order[wrong].sum() - n * (n - 1) / 2) / (n * (~wrong).sum())


def of(votes, data):
    return Dataset(data.provenance, data.pairs, votes)


def test_confidences_are_the_pooled_posterior_row_by_row():
    s = simulate(300, 8, 3, seed=1)
    result = em(s.dataset(), margin_column="margin")
    rows = result.confidences.sort("vote_id")
    tau = result.summary["temperature"]
    score = tau * s.margin
    np.add.at(score, s.pair, s.sign * log_odds(reliabilities(result, 8))[s.annotator])
    np.testing.assert_allclose(rows["confidence"], sigmoid(s.sign * score[s.pair]), rtol=1e-9)
    np.testing.assert_allclose(rows["pair_posterior"], sigmoid(score[s.pair]), rtol=1e-9)
    np.testing.assert_allclose(rows["prob"], sigmoid(tau * s.sign * s.margin[s.pair]), rtol=1e-9)
    np.testing.assert_allclose(rows["margin"], s.sign * s.margin[s.pair])


def test_pooling_and_calibration_beat_the_paper_where_the_model_is_over_confident():
    """Margins ten times too sure; the design's own figures are 0.160 / 0.869 and 0.027 / 0.997."""
    s = simulate(seed=3)
    data = s.with_margin(10 * s.margin).dataset()
    auto, paper = (em(data, margin_column="margin", mode=mode) for mode in ("auto", "paper"))
    errors = [np.sqrt(np.mean((reliabilities(r, 50) - s.reliability) ** 2)) for r in (auto, paper)]
    assert errors[0] < 0.035 and errors[1] > 0.1
    found = [
        auc(r.confidences.sort("vote_id")["confidence"].to_numpy(), s.wrong) for r in (auto, paper)
    ]
    assert found[0] > 0.99 and found[1] < 0.92
    assert 0.08 < auto.summary["temperature"] < 0.12
    assert "over-confident" in " ".join(auto.notes)
    without = em(data, margin_column="margin", calibrate=False)
    assert without.summary["temperature"] == 1.0


def test_a_worthless_model_does_no_harm():
    s = simulate(seed=4)
    turned = s.with_margin(reversed_margins(s.margin, 0.6, 4)).dataset()
    with_it, ignored = em(turned, margin_column="margin"), em(turned)
    assert "the model says nothing about these labels" in " ".join(with_it.notes)
    np.testing.assert_allclose(
        with_it.confidences["confidence"], ignored.confidences["confidence"], atol=1e-4
    )


def test_the_expected_number_of_wrong_labels_is_given_with_an_interval():
    s = simulate(seed=5)
    summary = em(s.dataset(), margin_column="margin").summary
    assert summary["expected_wrong_low"] < s.wrong.sum() < summary["expected_wrong_high"]
    assert summary["expected_wrong_share"] == pytest.approx(summary["expected_wrong"] / 8000)
    assert summary["share_pairs_conflicting"] == pytest.approx(
        np.mean([len(set(g)) > 1 for g in np.split(s.sign, 2000)])
    )


def test_without_pooling_votes_are_unrelated_and_pairs_have_no_posterior():
    s = simulate(400, 10, 3, seed=6)
    result = em(s.dataset(), margin_column="margin", pool=False, calibrate=False, prior="off")
    paper = em(s.dataset(), margin_column="margin", mode="paper", tolerance=1e-9)
    np.testing.assert_allclose(reliabilities(result, 10), reliabilities(paper, 10), atol=1e-4)
    assert result.confidences["pair_posterior"].null_count() == 1200


def test_a_given_prior_counts_as_votes():
    """One annotator, all margins certain: η = (right + a)/(n + a + b) = (3 + 9)/(4 + 10)."""
    s = simulate(4, 1, 1, reliability=np.array([0.9]), seed=0)
    sign = np.array([1, 1, 1, -1], np.int8)
    s = s._replace(sign=sign, margin=np.full(4, 60.0), pair=np.arange(4))
    result = em(s.dataset(), margin_column="margin", prior=(9.0, 1.0), calibrate=False)
    assert result.annotators["reliability"][0] == pytest.approx(12 / 14)
    assert (result.summary["prior_a"], result.summary["prior_b"]) == pytest.approx((9, 1))


def test_known_answers_are_fixed_posteriors():
    s = simulate(300, 10, 2, seed=7)
    data = s.dataset()
    known = np.arange(0, 300, 3)
    ids = [f"pair-{i:07d}" for i in known]
    truth = pl.DataFrame({"pair_id": ids, "vote": np.where(s.truth[known], "a", "b")})
    result = em(data, truth=truth)
    rows = result.confidences.filter(pl.col("pair_id").is_in(ids)).sort("vote_id")
    right = ~s.wrong[np.isin(s.pair, known)]
    np.testing.assert_array_equal(rows["confidence"].to_numpy(), right.astype(float))
    assert result.summary["n_known"] == 100
    error, without = (
        np.sqrt(np.mean((reliabilities(r, 10) - s.reliability) ** 2)) for r in (result, em(data))
    )
    assert error < without
    assert em(data, truth=truth).provenance.run_id != em(data).provenance.run_id


def test_bad_known_answers_are_refused():
    data = simulate(20, 3, 2, seed=0).dataset()
    for truth, said in [
        (pl.DataFrame({"pair_id": ["nowhere"], "vote": ["a"]}), "do not have"),
        (pl.DataFrame({"pair_id": ["pair-0000001"], "vote": ["left"]}), "unknown vote"),
        (pl.DataFrame({"text": ["pair-0000001"], "vote": ["a"]}), "lacks the column 'pair_id'"),
        (pl.DataFrame({"pair_id": ["pair-0000001"] * 2, "vote": ["a", "b"]}), "repeated"),
    ]:
        with pytest.raises(InputError, match=said):
            em(data, truth=truth)
    with pytest.raises(InputError, match="paper mode"):
        em(data, truth=pl.DataFrame({"pair_id": ["pair-0000001"], "vote": ["a"]}), mode="paper")


def test_sure_votes_count_for_more_where_they_are_right_more_often():
    s = simulate(4000, 10, 3, reliability=np.full(10, 0.7), seed=8)
    generator = np.random.default_rng(8)
    sure = generator.random(len(s.pair)) < 0.5
    right = generator.random(len(s.pair)) < np.where(sure, 0.95, 0.6)
    s = s._replace(sign=np.where(s.truth[s.pair] == right, 1, -1).astype(np.int8))
    data = s.dataset()
    votes = data.votes.with_columns(strength=pl.Series(np.where(sure, "sure", "unsure")))
    result = em(of(votes, data), margin_column="margin")
    shifts = result.summary["strength_shifts"]
    # logit 0.95 − logit 0.6 = 2.54 between the two; they lie evenly around their mean.
    assert shifts["sure"] - shifts["unsure"] == pytest.approx(2.54, abs=0.25)
    assert shifts["sure"] * sure.sum() == pytest.approx(-shifts["unsure"] * (~sure).sum(), abs=1e-3)
    plain = em(data, margin_column="margin")
    scores = [
        auc(r.confidences.sort("vote_id")["confidence"].to_numpy(), s.wrong)
        for r in (result, plain)
    ]
    assert scores[0] > scores[1]


def test_ties_are_counted_and_say_nothing():
    s = simulate(200, 6, 3, seed=9)
    data = s.dataset()
    ties = pl.DataFrame(
        {
            "vote_id": [1000, 1001],
            "pair_id": ["pair-0000000", "pair-0000001"],
            "annotator_id": ["annotator-000000", "idler"],
            "vote": ["tie", "tie"],
        }
    )
    result = em(of(pl.concat([data.votes, ties]), data), margin_column="margin")
    plain = em(data, margin_column="margin")
    assert result.summary["n_ties"] == 2
    np.testing.assert_allclose(
        reliabilities(plain, 6),
        [
            result.annotators.filter(pl.col("annotator_id") == f"annotator-{k:06d}")["reliability"][
                0
            ]
            for k in range(6)
        ],
        atol=1e-6,
    )
    tie = result.confidences.filter(pl.col("vote") == "tie")
    assert tie["confidence"].null_count() == 2 and tie["pair_posterior"].null_count() == 0
    idler = result.annotators.filter(pl.col("annotator_id") == "idler").row(0, named=True)
    assert idler["reliability"] is None and "not identified" in idler["flags"]


def test_an_earlier_run_adds_its_votes():
    s = simulate(600, 12, 3, seed=10)
    data = s.dataset()
    first = of(data.votes.filter(pl.col("vote_id") < 900), data)
    second = of(data.votes.filter(pl.col("vote_id") >= 900), data)
    early = em(first, margin_column="margin")
    added = em(second, margin_column="margin", init=early)
    whole = em(data, margin_column="margin")
    np.testing.assert_allclose(reliabilities(added, 12), reliabilities(whole, 12), atol=1e-4)
    assert added.confidences["vote_id"].sort().to_list() == list(range(900, 1800))
    assert added.summary["n_earlier"] == 900
    again = em(data, margin_column="margin", init=early)
    assert again.summary["n_earlier"] == 0
    np.testing.assert_allclose(reliabilities(again, 12), reliabilities(whole, 12), atol=1e-4)
    with pytest.raises(InputError, match="not of the same kind"):
        em(second, init=early)


def test_single_votes_without_a_model_are_not_identified():
    s = simulate(300, 10, 1, seed=11)
    result = em(s.dataset())
    assert result.annotators["reliability"].null_count() == len(result.annotators)
    assert (result.confidences["confidence"] - 0.9).abs().max() < 1e-6
    assert "not identified" in " ".join(result.notes)


def test_likely_flips_and_collapse_are_said():
    eta = np.array([0.05, 0.9, 0.92, 0.88, 0.9, 0.93])
    flipped = em(simulate(500, 6, 4, reliability=eta, seed=12).dataset(), margin_column="margin")
    assert "1 annotator(s) are surely below chance" in " ".join(flipped.notes)
    row = flipped.annotators.sort("reliability").row(0, named=True)
    assert row["annotator_id"] == "annotator-000000" and row["flags"] == ["below chance"]
    coin = simulate(3000, 6, 2, reliability=np.full(6, 0.5), seed=13)
    assert "near 50 %" in " ".join(em(coin.dataset(), margin_column="margin").notes)


@pytest.mark.parametrize("votes", [1, 3])
def test_reversed_margins_reverse_no_labels(votes):
    """A crowd that is mostly right, and a model that prefers the worse response."""
    s = simulate(3000, 60, votes, seed=16)
    reversed_ = s._replace(margin=-s.margin)
    result = em(reversed_.dataset(), margin_column="margin")
    assert result.summary["temperature"] == 0
    assert (result.confidences["confidence"] >= 0.5).mean() > 0.6
    assert "the model contradicts most labels" in " ".join(result.notes)
    right = em(s.dataset(), margin_column="margin")
    assert right.summary["temperature"] > 0.5
    assert "contradicts" not in " ".join(right.notes)


def test_margins_that_differ_within_a_pair_are_averaged_and_said():
    s = simulate(100, 5, 2, seed=14)
    data = s.dataset()
    noisy = data.votes.with_columns(margin=pl.Series(s.margin[s.pair] + np.tile([0.5, -0.5], 100)))
    result = em(of(noisy, data), margin_column="margin", calibrate=False)
    same = em(data, margin_column="margin", calibrate=False)
    np.testing.assert_allclose(result.confidences["confidence"], same.confidences["confidence"])
    assert "100 pairs have votes with different margins" in " ".join(result.notes)


def test_pairs_can_be_exported_with_their_posterior():
    s = simulate(200, 8, 3, seed=15)
    data = s.dataset()
    result = em(data, margin_column="margin")
    out = export(data, result, rows="pairs")
    assert len(out.frame) == 200
    q = result.confidences.group_by("pair_id").agg(pl.col("pair_posterior").first())
    both = out.frame.join(q, on="pair_id")
    expected = np.maximum(both["pair_posterior"], 1 - both["pair_posterior"])
    np.testing.assert_allclose(both["weight"], expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_row_order_names_and_orientation_do_not_matter(seed, pool, strong):
    s = simulate(60, 6, 2, seed=seed)
    generator = np.random.default_rng(seed)
    data = s.dataset()
    if strong:
        levels = generator.choice(["low", "high"], len(s.pair))
        data = of(data.votes.with_columns(strength=pl.Series(levels)), data)
    options = {"margin_column": "margin", "pool": pool, "tolerance": 1e-9}
    one = em(data, **options)
    names = {f"annotator-{k:06d}": f"x{n}" for k, n in enumerate(generator.permutation(6))}
    ids = {f"pair-{j:07d}": f"y{n:03d}" for j, n in enumerate(generator.permutation(60))}
    turned = pl.Series(generator.random(60) < 0.5)
    pairs = data.pairs.with_columns(
        pair_id=pl.col("pair_id").replace_strict(ids),
        margin=pl.when(turned).then(-pl.col("margin")).otherwise("margin"),
    )
    side = turned.gather(s.pair)
    other = pl.col("vote").replace_strict({"a": "b", "b": "a"})
    votes = data.votes.with_columns(
        pair_id=pl.col("pair_id").replace_strict(ids),
        annotator_id=pl.col("annotator_id").replace_strict(names),
        vote=pl.when(side).then(other).otherwise("vote"),
    ).sample(fraction=1, shuffle=True, seed=seed)
    two = em(
        Dataset(data.provenance, pairs.sample(fraction=1, shuffle=True, seed=seed), votes),
        **options,
    )
    shuffled = em(of(data.votes.sample(fraction=1, shuffle=True, seed=seed), data), **options)
    left, same, right = (r.confidences.sort("vote_id") for r in (one, shuffled, two))
    np.testing.assert_array_equal(left["confidence"], same["confidence"])
    # With other names the sums round otherwise, and the search for τ and the prior with them.
    np.testing.assert_allclose(left["confidence"], right["confidence"], atol=1e-6)
    mine = one.annotators.with_columns(pl.col("annotator_id").replace_strict(names)).sort(
        "annotator_id"
    )
    theirs = two.annotators.sort("annotator_id")
    for column in ("reliability", "reliability_low", "reliability_high"):
        np.testing.assert_allclose(
            mine[column].fill_null(-1), theirs[column].fill_null(-1), atol=1e-6
        )
    assert one.summary["expected_wrong"] == pytest.approx(two.summary["expected_wrong"], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prior": "weak"}, "prior is out of range"),
        ({"prior": (1.0, -1.0)}, "prior is out of range"),
        ({"schedule": "ema"}, "schedule means nothing in auto mode"),
        ({"mode": "paper", "pool": False}, "pool means nothing in paper mode"),
        ({"threads": 0}, "threads is out of range"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        em(simulate(10, 2, 1).dataset(), **options)


def test_equal_runs_give_equal_files(tmp_path):
    data = simulate(200, 8, 3, seed=16).dataset()
    for name in ("one", "two"):
        write_em(em(data, margin_column="margin", threads=2), tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    assert read_em(tmp_path / "one").summary["temperature"] > 0
