"""The rows of an export, on tables: which side is chosen, how weighted, and what is refused."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoise import schema
from denoise.dataset import Dataset
from denoise.errors import InputError
from denoise.stages import export as stage
from denoise.stages.export import Export, export
from denoise.tables import Provenance

FLIP = {"a": "b", "b": "a", "tie": "tie"}


def dataset(votes: list[tuple], pairs: pl.DataFrame | None = None, **columns: list) -> Dataset:
    """Votes as (pair number, annotator, vote), in source order; texts are named by their pair."""
    number = max((pair for pair, _, _ in votes), default=0) + 1
    if pairs is None:
        pairs = pl.DataFrame(
            {
                "pair_id": [f"p{i}" for i in range(number)],
                "prompt": [f"prompt {i}" for i in range(number)],
                "response_a": [f"a{i}" for i in range(number)],
                "response_b": [f"b{i}" for i in range(number)],
            }
        )
    table = {
        "vote_id": range(len(votes)),
        "pair_id": [f"p{pair}" for pair, _, _ in votes],
        "annotator_id": [annotator for _, annotator, _ in votes],
        "vote": [vote for _, _, vote in votes],
        **columns,
    }
    return Dataset(Provenance("import", {"x": "1"}), pairs, pl.DataFrame(table, strict=False))


def believe(data: Dataset, posterior: list[float | None], margin: float = 1.5) -> pl.DataFrame:
    """Confidences that follow from P(a is preferred) of each pair; the margin is a over b."""
    rows = []
    for vote_id, pair, annotator, vote in data.votes.select(
        "vote_id", "pair_id", "annotator_id", "vote"
    ).iter_rows():
        q = posterior[int(pair[1:])]
        along = margin if vote == "a" else -margin
        w = None if q is None or vote == "tie" else q if vote == "a" else 1 - q
        rows.append((vote_id, pair, annotator, vote, None if vote == "tie" else along, 0.5, w, q))
    names = [column.name for column in schema.CONFIDENCES.columns]
    numbers = dict.fromkeys(names[-4:], pl.Float64)
    return pl.DataFrame(rows, schema=names, schema_overrides=numbers, orient="row")


def annotators_table(*ids: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "annotator_id": ids,
            "reliability": [i / len(ids) for i in range(len(ids))],
            "reliability_low": [0.0] * len(ids),
            "reliability_high": [1.0] * len(ids),
            "n_votes": [7] * len(ids),
            "agreement": [0.5] * len(ids),
            "flags": [["few votes"]] * len(ids),
        }
    )


@pytest.fixture
def data() -> Dataset:
    return dataset(
        [(1, "ann", "b"), (0, "ann", "a"), (0, "bob", "b"), (0, "cid", "a"), (2, "bob", "tie")],
        seconds=[3.0, 4.0, 5.0, 4.5, 1.0],
        shown_first=["a", "a", "b", None, "a"],
        batch=["x", "y", "y", "y", "z"],
    )


def test_a_row_a_pair_takes_the_likelier_side_in_order_of_the_first_vote(data: Dataset) -> None:
    result = export(data, believe(data, [0.2, 0.3, 0.9]))
    assert result.frame.select("pair_id", "chosen", "rejected").rows() == [
        ("p1", "b1", "a1"),
        ("p0", "b0", "a0"),
    ]
    assert result.frame["weight"].to_list() == [0.7, 0.8]
    assert result.frame.select("n_votes", "n_agree").rows() == [(1, 1), (3, 1)]
    assert result.frame["margin"].to_list() == [-1.5, -1.5]  # along chosen, here b
    assert result.frame["batch"].to_list() == ["x", "y"]
    left_out = "Left out, as a pair's votes differ in it: annotator_id, seconds, shown_first"
    assert left_out in result.notes
    assert result.skipped.rows() == [(4, "p2", "bob", "tie", stage.TIE)]


def test_a_row_a_vote_keeps_what_was_voted_in_source_order(data: Dataset) -> None:
    frame = export(data, believe(data, [0.25, 0.5, 0.9]), rows="votes").frame
    assert frame.columns[:8] == [
        "prompt", "chosen", "rejected", "weight", "annotator_id", "vote_id", "pair_id",
        "multiplicity",
    ]  # fmt: skip
    assert frame["vote_id"].to_list() == [0, 1, 2, 3]
    assert frame["chosen"].to_list() == ["b1", "a0", "b0", "a0"]
    assert frame["weight"].to_list() == [0.5, 0.25, 0.75, 0.25]
    assert frame["multiplicity"].to_list() == [1, 1 / 3, 1 / 3, 1 / 3]
    assert frame["margin"].to_list() == [-1.5, 1.5, -1.5, 1.5]
    assert frame["shown_first"].to_list() == ["rejected", "chosen", "chosen", None]
    assert frame["seconds"].to_list() == [3.0, 4.0, 5.0, 4.5]


def test_every_vote_is_in_a_row_or_named_as_skipped() -> None:
    data = dataset([(0, "x", "a"), (0, "x", "b"), (1, "y", "a"), (3, "z", "b")])
    confidences = believe(data, [0.5, None, 0.5, 0.8])
    contradicted = pl.col("pair_id") == "p0"
    confidences = confidences.with_columns(
        pl.when(contradicted).then(pl.lit("tie")).otherwise("vote").alias("vote")
    )
    result = export(data, confidences, rows="votes")
    assert result.frame["vote_id"].to_list() == [3]
    assert result.skipped.select("vote_id", "pair_id", "reason").rows() == [
        (0, "p0", stage.CONTRADICTION),
        (1, "p0", stage.CONTRADICTION),
        (2, "p1", stage.NO_CONFIDENCE),
        (None, "p2", stage.NO_VOTE),
    ]
    assert "1 pair(s) left out: nobody voted on the pair" in result.notes


def test_a_tie_beside_a_choice_is_counted_in_a_note() -> None:
    data = dataset([(0, "x", "tie"), (0, "y", "a")])
    result = export(data, believe(data, [0.9]))
    assert result.skipped.is_empty()
    assert result.frame["n_votes"].to_list() == [1]
    assert any(note.startswith("1 vote(s) on pairs that have a row") for note in result.notes)


def test_one_vote_says_the_pairs_posterior_where_em_gave_none() -> None:
    data = dataset([(0, "x", "b"), (0, "y", "tie")])
    confidences = believe(data, [0.1]).with_columns(pair_posterior=pl.lit(None, pl.Float64))
    frame = export(data, confidences).frame
    assert frame.select("chosen", "weight").rows() == [("b0", 0.9)]


def test_a_users_own_weights_need_two_columns(data: Dataset) -> None:
    own = pl.DataFrame({"vote_id": [4, 3, 2, 1, 0], "confidence": [None, 0.4, 0.3, 0.2, 0.1]})
    result = export(data, own, rows="votes")
    assert result.frame["weight"].to_list() == [0.1, 0.2, 0.3, 0.4]
    assert "margin" not in result.frame.columns
    narrow = own.with_columns(pl.col("vote_id").cast(pl.UInt8), confidence=pl.lit(0.5))
    other = export(data, narrow, rows="votes")
    assert other.provenance.run_id != result.provenance.run_id


def test_source_columns_never_take_the_exports_names() -> None:
    data = dataset([(0, "x", "a"), (1, "x", "b")], weight=[7, 8], vote_name=["l", "r"])
    pairs = data.pairs.with_columns(
        chosen=pl.lit("mine"), source_weight=pl.lit(1), weight=pl.lit("heavy"), vote_name=pl.lit(0)
    )
    data = Dataset(data.provenance, pairs, data.votes)
    result = export(data, believe(data, [0.9, 0.9]), rows="votes")
    brought = result.frame.select(result.source_columns).to_dict(as_series=False)
    assert brought == {
        "source_chosen": ["mine"] * 2,
        "source_weight": [1, 1],
        "source_source_weight": ["heavy"] * 2,
        "vote_name": [0, 0],
        "source_source_source_weight": [7, 8],
        "source_vote_name": ["l", "r"],
    }
    assert "chosen as source_chosen" in " ".join(result.notes)


@st.composite
def voted(draw) -> tuple[list[tuple[int, str, str]], list[float]]:
    votes = draw(
        st.lists(
            st.tuples(
                st.integers(0, 5), st.sampled_from("xyz"), st.sampled_from(["a", "b", "tie"])
            ),
            min_size=1,
            max_size=20,
        ).filter(lambda votes: any(vote != "tie" for _, _, vote in votes))
    )
    # Multiples of 2⁻²⁰, so that 1 − q loses nothing and both orientations hold the same numbers.
    posterior = draw(st.lists(st.integers(0, 1 << 20), min_size=6, max_size=6))
    return votes, [q / (1 << 20) for q in posterior]


@given(voted())
def test_invariants_of_both_kinds_of_rows(case) -> None:
    votes, posterior = case
    data = dataset(votes)
    confidences = believe(data, posterior)
    by_vote = export(data, confidences.sample(fraction=1, shuffle=True, seed=0), rows="votes")
    by_pair = export(data, confidences)
    assert by_vote.frame["weight"].is_between(0, 1).all()
    assert by_pair.frame["weight"].is_between(0.5, 1).all()
    assert by_vote.frame["vote_id"].is_sorted()
    assert len(by_vote.frame) + by_vote.skipped["vote_id"].count() == len(votes)
    assert by_vote.frame["multiplicity"].sum() == pytest.approx(len(by_pair.frame))
    assert by_pair.frame["n_votes"].sum() == len(by_vote.frame)
    first = {pair: i for i, (pair, _, _) in reversed(list(enumerate(votes)))}
    order = [first[int(pair[1:])] for pair in by_pair.frame["pair_id"]]
    assert order == sorted(order)


@given(voted(), st.sets(st.integers(0, 5)), st.sampled_from(["pairs", "votes"]))
def test_the_orientation_of_a_pair_changes_nothing(case, turned: set[int], rows: str) -> None:
    votes, posterior = case
    data = dataset(votes)
    again = dataset([(p, k, FLIP[v] if p in turned else v) for p, k, v in votes])
    is_turned = pl.col("pair_id").is_in([f"p{i}" for i in turned])
    pairs = again.pairs.with_columns(
        pl.when(is_turned).then("response_b").otherwise("response_a").alias("response_a"),
        pl.when(is_turned).then("response_a").otherwise("response_b").alias("response_b"),
    )
    again = Dataset(again.provenance, pairs, again.votes)
    one = export(data, believe(data, posterior), rows=rows)
    flipped = [1 - q if i in turned else q for i, q in enumerate(posterior)]
    margins = believe(data, posterior)["margin"]  # along the vote: the same either way
    two = export(again, believe(again, flipped).with_columns(margins), rows=rows)
    assert one.frame.equals(two.frame)


def refused(data: Dataset, confidences: pl.DataFrame, **options) -> str:
    with pytest.raises(InputError) as caught:
        export(data, confidences, **options)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_pairs_without_a_posterior_are_refused_with_the_way_out(data: Dataset) -> None:
    paper = believe(data, [0.2, 0.3, 0.9]).with_columns(pair_posterior=pl.lit(None, pl.Float64))
    assert "1 pair(s) have several votes and no posterior" in refused(data, paper)
    assert "--rows votes" in refused(data, paper)
    assert len(export(data, paper, rows="votes").frame) == 4


def test_results_of_other_data_are_refused(data: Dataset) -> None:
    confidences = believe(data, [0.2, 0.3, 0.9])
    stale = Provenance("em", inputs={"data": "0" * 32})
    assert "made for other data" in refused(data, confidences, em_provenance=stale)
    fresh = Provenance("em", inputs={"data": data.provenance.run_id})
    result = export(data, confidences, em_provenance=fresh)
    assert result.provenance.inputs == {"data": data.provenance.run_id, "em": fresh.run_id}
    assert "1 vote(s) without a confidence" in refused(data, confidences.head(4))
    one_more = pl.concat([confidences, confidences.tail(1).with_columns(pl.col("vote_id") + 5)])
    assert "1 confidence(s) of votes that the data do not have" in refused(data, one_more)
    swapped = confidences.with_columns(pair_id=pl.col("pair_id").reverse())
    assert "belong to another pair or vote" in refused(data, swapped)
    other_vote = confidences.with_columns(pl.col("vote").replace({"a": "b"}))
    assert "belong to another pair or vote" in refused(data, other_vote)


def test_values_and_tables_that_cannot_be_are_refused(data: Dataset) -> None:
    confidences = believe(data, [0.2, 0.3, 0.9])
    too_sure = confidences.with_columns(confidence=pl.lit(1.25))
    assert "outside 0 to 1, found 1.25" in refused(data, too_sure)
    nan = confidences.with_columns(confidence=pl.lit(float("nan")))
    assert "not finite" in refused(data, nan)
    torn = confidences.with_columns(pair_posterior=pl.col("vote_id") / 10)
    assert "1 pair(s) whose votes carry different posteriors, found 'p0'" in refused(data, torn)
    twice = pl.concat([confidences, confidences.head(1)])
    assert "repeated vote_id" in refused(data, twice)
    assert "lacks the column 'confidence'" in refused(data, confidences.drop("confidence"))
    assert "such rows" in refused(data, confidences, rows="items")
    orphaned = Dataset(data.provenance, data.pairs.head(1), data.votes)
    assert "2 vote(s) on pairs that the pairs table" in refused(orphaned, confidences)
    ties = dataset([(0, "x", "tie")])
    assert "no label is left to export: 1 × a tie" in refused(ties, believe(ties, [0.5]))
    labels = Dataset(data.provenance, labels=pl.DataFrame())
    assert "categorical labels" in refused(labels, confidences)
    chat = data.pairs.with_columns(
        response_b=pl.Series([[{"role": "assistant", "content": "x"}]] * 3)
    )
    mixed = Dataset(data.provenance, chat, data.votes)
    assert "one response is text and the other" in refused(mixed, confidences)


def test_pseudonyms_leave_no_id_and_link_an_annotators_rows(data: Dataset) -> None:
    votes = data.votes.with_columns(
        worker=pl.col("annotator_id"),
        details=pl.struct(evaluator=pl.concat_list("annotator_id"), batch=pl.lit(1)),
    )
    data = Dataset(data.provenance, data.pairs, votes)
    table = annotators_table("ann", "bob", "cid", "all")
    confidences = believe(data, [0.2, 0.3, 0.9])
    plain = export(data, confidences, rows="votes", annotators=table)

    def hidden() -> Export:
        return export(data, confidences, rows="votes", annotators=table, pseudonymise=True)

    result = hidden()
    assert result.pseudonymous
    assert "Left out, as they hold annotator ids, or values that equal some: worker, details" in (
        result.notes
    )
    pieces = (result.frame, result.skipped, result.annotators)
    text = "".join(frame.write_ndjson() for frame in pieces)
    assert not any(f'"{name}"' in text for name in ("ann", "bob", "cid"))
    same = dict(zip(plain.frame["annotator_id"], result.frame["annotator_id"], strict=True))
    assert len(set(same.values())) == 3
    assert result.frame["annotator_id"].to_list() == [same[k] for k in plain.frame["annotator_id"]]
    assert result.skipped["annotator_id"].to_list() == [same["bob"]]
    assert result.annotators["annotator_id"].to_list() == [*same.values(), "all"]
    assert hidden().frame["annotator_id"][0] != result.frame["annotator_id"][0]
