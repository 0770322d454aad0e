"""The audit as a function on tables: planted trouble is found, order and names do not matter."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from audit_cases import dataset, labels
from polars.testing import assert_frame_equal

from denoise import audit
from denoise.dataset import Dataset
from denoise.errors import InputError
from denoise.quality.finding import LEVELS
from denoise.schema import ANNOTATORS, faults
from denoise.simulate import simulate
from denoise.stages.audit_compare import compare
from denoise.stages.audit_evidence import epoch_seconds
from denoise.stages.audit_outputs import (
    anonymised,
    as_json,
    below,
    clean_labels,
    gates,
    result_tables,
)
from denoise.stages.pseudonyms import new_key
from denoise.tables import Provenance


@pytest.fixture(scope="module")
def audited():
    frame, _ = labels()
    return audit(dataset(frame), slices=("topic",))


def test_the_tables_keep_their_contracts_and_count_everything(audited):
    assert not faults(audited.annotators, ANNOTATORS, "annotators")
    assert audited.annotators["n_votes"].sum() == 1500 == audited.summary["n_votes"]
    low = audited.annotators["reliability_low"].to_list()
    assert low == sorted(low)
    assert len(audited.items) == 300 == audited.items["item_id"].n_unique()
    assert audited.items["worth_of_a_look"].is_sorted(descending=True)
    assert audited.summary["expected_wrong_items"] == pytest.approx(
        (1 - audited.items["confidence"]).sum()
    )
    assert len(audited.votes) == 1500 and audited.votes["confidence"].is_between(0, 1).all()
    assert set(audited.asked) == set(LEVELS)
    assert audited.asked["position"].reason and not audited.asked["position"].asked
    assert audited.slices["n_votes"].sum() == 1500
    both = audited.annotator_slices.group_by("value").agg(pl.col("n_votes").sum())
    counts = dict(audited.slices.select("value", "n_votes").iter_rows())
    assert dict(both.iter_rows()) == counts
    assert json.dumps(as_json(audited), allow_nan=False)


def test_expected_shares_are_near_the_truth_and_rather_below_it():
    """Confidences allow for errors that annotators share, of which these have none."""
    frame, truth = labels(seed=2)
    found = audit(dataset(frame))
    joined = found.items.join(truth, on="item_id", suffix="_true")
    accuracy = (joined["label"] == joined["label_true"]).mean()
    assert accuracy - 0.1 < found.items["confidence"].mean() < accuracy + 0.01
    own = frame.join(truth, on="item_id", suffix="_true")
    right = own.group_by("annotator_id").agg(right=(pl.col("label") == pl.col("label_true")).mean())
    both = found.annotators.join(right, on="annotator_id")
    assert np.corrcoef(both["expected_right"], both["right"])[0, 1] > 0.9


def test_trouble_is_found_where_it_was_planted():
    """One who spams, one whose fast answers and one whose answers on law are at chance."""
    frame, _ = labels(n_items=900, reliability=np.full(12, 0.9), seed=1)
    rng = np.random.default_rng(0)
    guessed = pl.Series(rng.choice(["cat", "dog", "owl"], len(frame)))
    spams = frame["annotator_id"] == "w00"
    fast = (frame["annotator_id"] == "w01") & pl.Series(rng.random(len(frame)) < 0.4)
    law = (frame["annotator_id"] == "w02") & (frame["topic"] == "law")
    frame = frame.with_columns(
        label=pl.when(spams | fast | law).then(guessed).otherwise("label"),
        seconds=pl.when(fast).then(0.5).otherwise("seconds"),
    )
    found = audit(dataset(frame), slices=("topic",))
    flags = {row["annotator_id"]: row["flags"] for row in found.annotators.to_dicts()}
    assert "spammer" in flags["w00"]
    assert "fast answers worse" in flags["w01"]
    assert "worse in a slice" in flags["w02"]
    (slice_,) = found.findings.filter("flagged", question="slice")["other"]
    assert slice_ == "topic = law"
    assert found.summary["n_useless"] == 1 and found.summary["n_flagged"] == 3
    assert all(not flags[f"w{k:02d}"] for k in range(3, 12))


def test_whoever_answers_in_no_time_rushes_and_those_without_times_do_not():
    frame, _ = labels()
    mine = pl.col("annotator_id") == "w05"
    frame = frame.with_columns(
        seconds=pl.when(mine).then(pl.col("seconds") / 20).otherwise("seconds")
    )
    found = audit(dataset(frame)).annotators
    assert found.filter(pl.col("flags").list.contains("rushes"))["annotator_id"].to_list() == [
        "w05"
    ]
    assert "median_seconds" not in audit(dataset(frame.drop("seconds"))).annotators.columns


def test_where_reliable_people_differ_the_item_is_contested_and_nobody_is_to_blame():
    """Thirty votes an item of annotators at 0.92; on ten items of 200 they are of two minds."""
    rng = np.random.default_rng(6)
    item, who = np.divmod(np.arange(200 * 30), 30)
    truth = rng.integers(2, size=200)
    right = rng.random(len(item)) < np.where(item < 10, 0.55, 0.92)
    label = np.where(right, truth[item], 1 - truth[item])
    frame = pl.DataFrame(
        {
            "item_id": pl.Series(item).cast(pl.String).str.zfill(3),
            "annotator_id": pl.Series(who).cast(pl.String),
            "label": pl.Series(["no", "yes"])[label],
        }
    )
    found = audit(dataset(frame))
    contested = set(found.items.filter("contested")["item_id"])
    assert len(contested & {f"{j:03d}" for j in range(10)}) >= 8
    assert len(contested - {f"{j:03d}" for j in range(10)}) <= 1
    assert found.summary["n_contested"] == len(contested)
    assert found.summary["n_useless"] == 0


def test_order_of_rows_and_names_of_annotators_change_nothing(audited):
    frame, _ = labels()
    shuffled = audit(dataset(frame.sample(fraction=1.0, shuffle=True, seed=3)), slices=("topic",))
    for name in ("items", "slices", "plan"):
        assert_frame_equal(getattr(audited, name), getattr(shuffled, name))
    figures = ["reliability", "reliability_low", "agreement", "informed", "median_seconds"]
    assert_frame_equal(audited.annotators.select(figures), shuffled.annotators.select(figures))


def test_known_answers_count_and_check_the_labels_made_without_them():
    frame, truth = labels()
    some = truth.head(100)
    plain, found = audit(dataset(frame)), audit(dataset(frame), truth=some)
    known = found.items.join(some, on="item_id", suffix="_true")
    assert (known["label"] == known["label_true"]).all() and (known["confidence"] == 1).all()
    made = plain.items.join(some, on="item_id", suffix="_true")
    accuracy = (made["label"] == made["label_true"]).mean()
    assert found.summary["on_known"]["accuracy_on_known"] == accuracy
    assert found.annotators["n_known"].sum() == len(frame.join(some, on="item_id"))
    row = found.annotators.filter(annotator_id="w11").row(0, named=True)
    mine = frame.filter(annotator_id="w11").join(some, on="item_id", suffix="_true")
    assert row["accuracy_on_known"] == (mine["label"] == mine["label_true"]).mean()
    assert row["accuracy_low"] < row["accuracy_on_known"] < row["accuracy_high"]
    assert np.isfinite(found.by_votes.known).all()


def test_known_answers_may_be_of_other_batches_too_and_have_the_names_of_their_tool():
    frame, truth = labels()
    others = pl.DataFrame({"item_id": ["elsewhere"], "label": ["cat"]})
    whole = pl.concat([truth.head(20), others]).rename({"item_id": "task"})
    found = audit(dataset(frame), truth=whole)
    assert found.summary["on_known"]["n_known"] == 20
    assert any("1 known answers are of items" in note for note in found.notes)


def test_a_known_answer_that_nobody_gave_is_a_class_of_its_own():
    frame, truth = labels()
    odd = truth.head(3).with_columns(label=pl.lit("emu"))
    found = audit(dataset(frame), truth=odd)
    assert "emu" in found.summary["classes"]
    assert found.summary["on_known"]["accuracy_on_known"] == 0.0


def test_pairs_of_responses_with_margins():
    world = simulate(600, 12, 3, seed=1)
    data = world.dataset()
    found = audit(data, margin_column="margin")
    assert found.summary["kind"] == "preferences"
    told = found.annotators.sort("annotator_id")
    assert np.corrcoef(told["reliability"], world.reliability)[0, 1] > 0.8
    clean = clean_labels(found)
    assert clean.columns[:5] == ["pair_id", "prompt", "chosen", "rejected", "confidence"]
    assert len(clean) == 600 and clean["confidence"].is_between(0.5, 1).all()
    without = audit(data)
    assert found.summary["expected_wrong_items"] < without.summary["expected_wrong_items"]


def test_clean_labels_are_the_votes_whatever_the_columns_of_the_pairs_are_called():
    data = simulate(60, 5, 3, seed=1).dataset()
    own = {name: pl.lit(0.0) for name in ("for_a", "for_a_right", "confidence")}
    found = audit(Dataset(data.provenance, data.pairs.with_columns(**own), data.votes))
    expected = clean_labels(audit(data))
    assert_frame_equal(clean_labels(found).select(expected.columns), expected)


def test_votes_that_name_nobody_say_nothing_of_anyone():
    data = simulate(200, 5, 2, seed=1).dataset()
    votes = data.votes.with_columns(annotator_id=pl.lit("all"))
    found = audit(Dataset(data.provenance, pairs=data.pairs, votes=votes), margin_column="margin")
    assert found.summary["n_annotators"] == 0 and found.findings.is_empty()
    assert {asked.reason for asked in found.asked.values()} == {"no annotator is named"}
    assert found.summary["n_votes"] == 400


def test_columns_of_the_source_may_be_called_row_found_and_more(audited):
    frame, _ = labels()
    turned = (pl.int_range(pl.len()) % 2).cast(pl.String)
    named = audit(dataset(frame.with_columns(row=turned)), slices=("topic", "row"))
    assert_frame_equal(named.votes, audited.votes)
    assert named.slices.filter(slice="row")["value"].sort().to_list() == ["0", "1"]
    data = simulate(60, 5, 2, seed=1).dataset()
    votes = data.votes.with_columns(row=turned, found=turned, more=turned)
    pairs = data.pairs.with_columns(topic=pl.lit("art"))
    options = {"margin_column": "margin", "slices": ("topic",)}
    own = audit(Dataset(data.provenance, pairs=pairs, votes=votes), **options)
    plain = audit(Dataset(data.provenance, pairs=pairs, votes=data.votes), **options)
    for name, table in result_tables(plain).items():
        assert_frame_equal(result_tables(own)[name], table)


@pytest.mark.parametrize("name", ["n", "count", "value", "slice", "len"])
def test_a_slice_may_have_the_name_of_a_column_that_is_made(audited, name):
    frame, _ = labels()
    found = audit(dataset(frame.rename({"topic": name})), slices=(name,))
    assert_frame_equal(found.slices.drop("slice"), audited.slices.drop("slice"))
    other = pl.col("other").str.replace("topic", name)
    assert_frame_equal(found.findings, audited.findings.with_columns(other))


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([["x"]]),
        pl.Series([["x"]], dtype=pl.Array(pl.String, 1)),
        pl.Series([{"x": 1}]),
        pl.Series([b"\xff"]),
        pl.Series([1], dtype=pl.Duration("us")),
    ],
)
def test_a_slice_by_a_column_that_is_no_text_is_refused(values):
    frame, _ = labels(n_items=20)
    frame = frame.with_columns(odd=values.new_from_index(0, len(frame)))
    with pytest.raises(InputError, match="column 'odd': wrong type"):
        audit(dataset(frame), slices=("odd",))


def test_pairs_are_sliced_by_columns_of_the_source_that_are_called_label_and_item_id():
    data = simulate(60, 5, 3, seed=1).dataset()
    pairs = data.pairs.with_columns(item_id=pl.Series(["x", "y"] * 30))
    own = pl.Series(["red", "green", "blue"] * 60)
    votes = data.votes.with_columns(label=own).sample(fraction=1.0, shuffle=True, seed=0)
    found = audit(Dataset(data.provenance, pairs, votes), slices=("label", "item_id"))
    assert set(found.slices.filter(slice="item_id")["value"]) == {"x", "y"}
    votes = votes.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    rows = found.votes.join(votes, on="row", suffix="_own", validate="1:1")
    assert (rows["annotator_id"] == rows["annotator_id_own"]).all()
    table = found.annotator_slices.filter(slice="label").select("annotator_id", "value", "n_votes")
    counts = rows.group_by("annotator_id", value="label_own").agg(n_votes=pl.len().cast(pl.Int64))
    assert_frame_equal(table, counts, check_row_order=False)
    with pytest.raises(InputError, match="no such column"):
        audit(data, slices=("label",))


def test_ties_count_in_agreement_and_as_no_vote():
    data = simulate(200, 5, 3, seed=1).dataset()
    tied = pl.Series(np.arange(len(data.votes)) % 4 == 0)
    votes = data.votes.with_columns(vote=pl.when(tied).then(pl.lit("tie")).otherwise("vote"))
    found = audit(Dataset(data.provenance, pairs=data.pairs, votes=votes))
    assert found.summary["n_votes"] == 600 and found.summary["n_ties"] == 150
    assert len(found.votes) == 450


def test_pseudonyms_are_everywhere_and_last_for_one_key(audited):
    key = new_key()
    hidden = anonymised(audited, key)
    names = set(hidden.annotators["annotator_id"])
    assert len(names) == 12 and all(name.startswith("annotator-") for name in names)
    for name, frame in result_tables(hidden).items():
        written = frame.select(pl.col(pl.String)).write_csv()
        assert "w0" not in written and "w1" not in written, name
    again = anonymised(audited, key)
    assert_frame_equal(hidden.annotators, again.annotators)
    assert names.isdisjoint(anonymised(audited, new_key()).annotators["annotator_id"])
    frame, _ = labels()
    with pytest.raises(InputError, match="slices are annotators"):
        anonymised(audit(dataset(frame), slices=("annotator_id",)), key)


def test_the_gate_says_every_measure_that_is_too_low(audited):
    assert not below(audited.summary, gates("reliability=0.5, min_reliability=0.3,alpha=0.2"))
    said = below(audited.summary, gates("reliability=0.99,alpha=0.99"))
    assert len(said) == 2 and "alpha" in said[1]
    nothing = audited.summary | {"min_reliability": None}
    assert "not told" in below(nothing, {"min_reliability": 0.5})[0]
    for text in ("", "alpha", "alpha=x", "alpha=2", "beta=0.5", "alpha=0.1,alpha=0.2", "alpha=nan"):
        with pytest.raises(InputError, match="fail-under"):
            gates(text)


def test_a_batch_compared_with_itself_and_with_one_where_someone_became_worse():
    frame, _ = labels(n_items=900, reliability=np.full(12, 0.9))
    worse = np.full(12, 0.9)
    worse[4] = 0.5
    other, _ = labels(n_items=900, reliability=worse, seed=5)
    other = other.filter(pl.col("annotator_id") != "w11")
    a, b = audit(dataset(frame)), audit(dataset(other))
    same = compare(a, a)
    assert not same.annotators["changed"].any()
    assert (same.measures["change"].drop_nulls() == 0).all()
    found = compare(a, b)
    assert found.annotators.filter("changed")["annotator_id"].to_list() == ["w04"]
    assert found.counts == {"both": 11, "gone": 1, "new": 0, "better": 0, "worse": 1}
    row = found.measures.filter(measure="reliability (mean by vote)").row(0, named=True)
    assert row["low"] < row["change"] < row["high"] < 0


@pytest.mark.parametrize(
    "values",
    [
        pl.Series(["2024-05-01T10:00:00Z", "2024-05-01T12:00:00+00:00", None]),
        pl.Series(["2024-05-01 10:00:00", "2024-05-01 12:00:00.5", ""]),
        pl.Series(["Wed May 01 10:00:00 PDT 2024", "Wed May 01 12:00:00 PDT 2024", "soon"]),
        pl.Series(["1714557600", "1714564800", None]),
        pl.Series([1714557600, 1714564800, None]),
        pl.Series(["2024-05-01T10:00:00", "2024-05-01T12:00:00", None]).str.to_datetime(),
    ],
)
def test_points_of_time_in_the_spellings_of_the_tools(values):
    seconds = epoch_seconds(values)
    assert seconds[1] - seconds[0] == pytest.approx(7200, abs=1)
    assert np.isnan(seconds[2])


def test_what_cannot_be_audited_is_refused():
    frame, truth = labels()
    with pytest.raises(InputError, match="no such column"):
        audit(dataset(frame), slices=("language",))
    with pytest.raises(InputError, match="means nothing to labels"):
        audit(dataset(frame), margin_column="margin")
    with pytest.raises(InputError, match="holds no times"):
        audit(dataset(frame), time="topic")
    for name, value in {"mode": "paper", "pool": False}.items():
        with pytest.raises(InputError, match=f"{name} means nothing to an audit"):
            audit(simulate(50, 3, 2).dataset(), margin_column="margin", **{name: value})
    pairs = audit(simulate(50, 3, 2).dataset())
    with pytest.raises(InputError, match="labels and preferences"):
        compare(audit(dataset(frame)), pairs)
    foreign = truth.head(1).with_columns(item_id=pl.lit("elsewhere"))
    with pytest.raises(InputError, match="known answer"):
        audit(dataset(frame), truth=foreign)


def test_a_single_vote_and_items_with_one_vote_each():
    one = pl.DataFrame({"item_id": ["i"], "annotator_id": ["w"], "label": ["x"]})
    found = audit(dataset(one))
    assert found.summary["n_votes"] == 1 and not found.summary["n_flagged"]
    frame, _ = labels(each=1)
    alone = audit(dataset(frame))
    assert np.isnan(alone.agreement.alpha.value)
    assert not alone.findings["flagged"].any()
    assert json.dumps(as_json(alone), allow_nan=False)


def test_the_same_audit_has_the_same_run(audited):
    frame, _ = labels()
    assert audit(dataset(frame), slices=("topic",)).provenance == audited.provenance
    other = Dataset(Provenance("import", {"source": "other"}), labels=frame)
    assert audit(other).provenance.run_id != audited.provenance.run_id


def test_a_crowd_that_errs_together_is_said_to_and_nobody_is_flagged_for_copies():
    """On four items in ten everyone reads the same wrong label."""
    rng = np.random.default_rng(4)
    n_items, n_annotators = 200, 14
    item, who = np.divmod(np.arange(n_items * n_annotators), n_annotators)
    lures = rng.random(n_items) < 0.4
    wrong = rng.random(len(item)) < np.where(
        lures[item], rng.choice([0.3, 0.5], n_items)[item], 0.05
    )
    label = (rng.integers(3, size=n_items)[item] + wrong) % 3
    frame = pl.DataFrame(
        {
            "item_id": pl.Series(item).cast(pl.String),
            "annotator_id": pl.Series(who).cast(pl.String),
            "label": pl.Series(label).cast(pl.String),
        }
    )
    found = audit(dataset(frame))
    assert found.summary["errs_together"] == bool(found.asked["copies"].reason)
    assert found.summary["errs_together"] and not found.asked["copies"].flagged
    calm = audit(dataset(labels()[0]))
    assert not calm.summary["errs_together"]


def test_a_known_answer_that_all_deny_is_doubtful_and_not_contested():
    frame, truth = labels(each=10, reliability=np.full(12, 0.9))
    wrong = truth.head(40).with_columns(
        label=pl.when(pl.int_range(40) == 7).then(pl.lit("owl")).otherwise("label")
    )
    assert truth["label"][7] != "owl"
    found = audit(dataset(frame), truth=wrong)
    doubtful = found.items.filter("known_doubtful")
    assert doubtful["item_id"].to_list() == ["i0007"] and not doubtful["contested"].any()
    assert found.summary["n_known_doubtful"] == 1
