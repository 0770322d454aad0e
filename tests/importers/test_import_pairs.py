"""What one pair is, which way round it lies, and what becomes of repeated votes."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoise import schema
from denoise.dataset import read_dataset, write_dataset
from denoise.errors import InputError
from denoise.importers import import_data

RESPONSE = st.sampled_from(["", "x", "y", "zé", "a", "b", "🙂"])
ROW = st.tuples(
    st.sampled_from(["p", "q"]),
    RESPONSE,
    RESPONSE,
    st.sampled_from(["a", "b", "tie"]),
    st.sampled_from(["w1", "w2", "all"]),
).filter(lambda row: row[1] != row[2])
COLUMNS = ("prompt", "response_a", "response_b", "winner", "annotator")


def table(rows):
    return pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String), orient="row")


def meaning(data):
    """Each vote as (prompt, both texts, the text it prefers, annotator), in no order."""
    joined = data.votes.join(data.pairs, on="pair_id")
    out = []
    for row in joined.to_dicts():
        texts = {"a": row["response_a"], "b": row["response_b"]}
        best = texts.get(row["vote"])
        out.append((row["prompt"], *sorted(texts.values()), best, row["annotator_id"]))
    return sorted(out, key=str)


def test_rows_with_the_same_texts_in_either_order_are_one_pair():
    data = import_data(
        table(
            [
                ("p", "x", "y", "a", "w1"),
                ("p", "y", "x", "a", "w2"),
                ("q", "x", "y", "tie", "w1"),
            ]
        )
    )
    assert len(data.pairs) == 2
    assert data.pairs.row(0)[1:] == ("p", "x", "y")  # the source's own sides, as first seen
    assert data.votes["vote"].to_list() == ["a", "b", "tie"]
    assert data.votes["swapped"].to_list() == [False, True, False]
    assert data.votes["vote_id"].to_list() == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=8), st.randoms(use_true_random=False), st.data())
def test_neither_row_order_nor_the_sides_of_a_row_change_what_the_votes_mean(rows, random, data):
    swaps = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    other = {"a": "b", "b": "a", "tie": "tie"}
    turned = [
        (prompt, right, left, other[winner], by) if swap else (prompt, left, right, winner, by)
        for (prompt, left, right, winner, by), swap in zip(rows, swaps, strict=True)
    ]
    random.shuffle(turned)
    first, second = import_data(table(rows)), import_data(table(turned))
    assert set(first.pairs["pair_id"]) == set(second.pairs["pair_id"])
    assert meaning(first) == meaning(second)
    for made in (first, second):
        assert not schema.faults(made.pairs, schema.PAIRS, "pairs")
        assert not schema.faults(made.votes, schema.VOTE_ROWS, "votes")
        assert len(made.votes) + len(made.skipped) == len(rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_chosen_and_rejected_do_not_tell_the_orientation(rows, random):
    frame = table(rows).select("prompt", "annotator", chosen="response_a", rejected="response_b")
    turned = frame.rename({"chosen": "rejected", "rejected": "chosen"})
    first, second = import_data(frame), import_data(turned)
    columns = ("pair_id", "prompt", "response_a", "response_b")
    assert first.pairs.select(columns).equals(second.pairs.select(columns))
    order = list(range(len(frame)))
    random.shuffle(order)
    assert meaning(import_data(frame[order])) == meaning(first)


def test_orientation_is_the_order_of_hashes_where_the_source_has_no_sides():
    frame = pl.DataFrame({"prompt": ["p"] * 9, "chosen": list("abcdefghi"), "rejected": ["z"] * 9})
    data = import_data(frame)
    for pair in data.pairs.to_dicts():
        assert schema.digest(pair["response_a"]) < schema.digest(pair["response_b"])
    assert set(data.votes["vote"]) == {"a", "b"}
    assert data.provenance.settings["first"] == "chosen"


def test_the_pair_id_is_the_hash_of_the_prompt_and_the_sorted_responses():
    data = import_data(table([("p", "y", "x", "a", "w")]))
    assert data.pairs["pair_id"][0] == schema.digest("p", "x", "y").hex()


def test_a_named_annotators_repeats_collapse_and_their_contradictions_become_one_tie():
    data = import_data(
        table(
            [
                ("p", "x", "y", "a", "w1"),
                ("p", "y", "x", "b", "w1"),  # says the same again
                ("p", "x", "y", "a", "w2"),
                ("p", "x", "y", "b", "w2"),  # says the opposite
                ("p", "x", "y", "tie", "w2"),
                ("p", "x", "y", "a", "all"),
                ("p", "x", "y", "a", "all"),
            ]
        )
    )
    assert data.votes["vote_id"].to_list() == [0, 2, 5, 6]
    assert data.votes["vote"].to_list() == ["a", "tie", "a", "a"]
    assert data.skipped["source_row"].to_list() == [1, 3, 4]
    assert data.skipped["reason"][0] == "repeats vote 0"
    assert "contradicts vote 2" in data.skipped["reason"][1]
    assert any(note.startswith("1 vote became a tie") for note in data.notes)


def test_votes_without_annotators_belong_to_all_and_never_collapse():
    frame = pl.DataFrame({"prompt": ["p"] * 3, "chosen": ["x", "x", "y"], "rejected": list("yyx")})
    data = import_data(frame)
    assert data.votes["annotator_id"].to_list() == [schema.ALL_ANNOTATORS] * 3
    assert len(data.pairs) == 1 and data.skipped.is_empty()


def test_the_users_pair_ids_are_kept_and_each_vote_is_turned_to_its_pair():
    frame = table([("p", "x", "y", "a", "w1"), ("p", "y", "x", "a", "w2")])
    data = import_data(frame.with_columns(pair_id=pl.Series([7, 7])))
    assert data.pairs["pair_id"].to_list() == ["7"]
    assert data.votes["vote"].to_list() == ["a", "b"]


def test_one_pair_id_with_two_texts_is_refused_with_both_rows():
    frame = table([("p", "x", "y", "a", "w1"), ("p", "x", "z", "a", "w2")])
    with pytest.raises(InputError, match=r"row 1: this pair_id has other texts than in row 0"):
        import_data(frame.with_columns(pair_id=pl.lit("c1")))


def test_two_pair_ids_with_one_text_stay_apart_and_are_mentioned():
    frame = table([("p", "x", "y", "a", "w1"), ("p", "x", "y", "a", "w2")])
    data = import_data(frame.with_columns(pair_id=pl.Series(["c1", "c2"])))
    assert data.pairs["pair_id"].to_list() == ["c1", "c2"]
    assert any("stay apart: 1" in note for note in data.notes)


def test_rows_that_make_no_vote_are_kept_with_their_reason_and_content():
    data = import_data(
        table(
            [
                ("p", "x", "y", "a", "w1"),
                ("p", "x", "x", "a", "w1"),
                (None, "x", "y", "a", "w1"),
                ("p", None, "y", "a", "w1"),
                ("p", "x", "y", None, "w1"),
                ("p", "x", "y", "a", None),
                ("p", "x", "y", "a", ""),
                ("p", "x", "y", "nobody", "w1"),
            ]
        )
    )
    assert data.votes["vote_id"].to_list() == [0]
    assert data.skipped["source_row"].to_list() == [1, 2, 3, 4, 5, 6, 7]
    assert data.skipped["reason"].to_list() == [
        "identical responses",
        "'prompt' is empty",
        "'response_a' is empty",
        "'winner' is empty",
        "'annotator' is empty",
        "'annotator' is empty",
        "'winner' is 'nobody', which names no side",
    ]
    assert json.loads(data.skipped["content"][0])["response_b"] == "x"


def test_an_import_that_leaves_no_vote_is_refused_with_the_reasons():
    with pytest.raises(InputError, match=r"no row can be used: 1 × 'winner' is empty"):
        import_data(table([("p", "x", "y", None, "w1")]))
    with pytest.raises(InputError, match=r"no row can be used: 2 × identical responses"):
        import_data(table([("p", "x", "x", "a", "w1"), ("p", "y", "y", "b", "w1")]))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([1, 2], ["1", "2"]), ([True, False], ["true", "false"]), ([1.0, 2.0], ["1", "2"])],
)
def test_annotator_ids_of_any_kind_become_text(ids, expected):
    frame = pl.DataFrame({"prompt": ["p", "q"], "chosen": ["x"] * 2, "rejected": ["y"] * 2})
    data = import_data(frame.with_columns(user_id=pl.Series(ids)))
    assert data.votes["annotator_id"].to_list() == expected
    assert data.provenance.settings["columns"]["annotator"] == "user_id"


def test_a_missing_number_as_annotator_is_skipped_and_not_called_nan():
    frame = pl.DataFrame(
        {"chosen": ["x", "x"], "rejected": ["y", "z"], "rater": [3.0, float("nan")]}
    )
    data = import_data(frame)
    assert data.votes["annotator_id"].to_list() == ["3"]
    assert data.skipped["reason"].to_list() == ["'rater' is empty"]


def test_a_column_of_annotators_that_names_nobody_is_no_column_of_annotators():
    frame = pl.DataFrame({"chosen": ["a", "b"], "rejected": ["x", "y"], "judge": [None, None]})
    data = import_data(frame)
    assert data.votes["annotator_id"].to_list() == ["all", "all"]
    assert "judge" in data.votes.columns and "no annotator column" in data.notes[0]


def test_columns_that_clash_with_the_contract_are_renamed_and_the_others_kept_in_order():
    frame = pl.DataFrame(
        {
            "vote_id": [9],
            "chosen": ["x"],
            "rejected": ["y"],
            "z": [1],
            "swapped": [True],
            "m": [None],
        }
    )
    data = import_data(frame)
    assert data.votes.columns[4:] == ["source_vote_id", "z", "source_swapped", "m"]


def test_details_of_a_vote_take_the_places_of_the_contract():
    frame = table([("p", "x", "y", "b", "w1"), ("p", "y", "x", "b", "w2")]).with_columns(
        strength=pl.Series(["clearly", None]),
        seconds=pl.Series([3, 4]),
        timestamp=pl.Series(["2024-05-01", "2024-05-02"]),
        shown_first=pl.Series(["response_b", "response_b"]),
    )
    votes = import_data(frame).votes
    assert votes.columns[4:8] == ["strength", "shown_first", "seconds", "timestamp"]
    assert votes["shown_first"].to_list() == ["b", "a"]
    assert votes["seconds"].dtype == pl.Float64


def test_seconds_that_are_no_numbers_are_left_as_they_are():
    frame = table([("p", "x", "y", "b", "w1")]).with_columns(seconds=pl.lit("a while"))
    assert import_data(frame).votes["source_seconds"].to_list() == ["a while"]


def test_the_same_input_gives_the_same_tables_and_run():
    rows = [("p", "x", "y", "a", "w1"), ("q", "y", "x", "a", "w2")]
    first, second = import_data(table(rows)), import_data(table(rows))
    assert first.provenance.run_id == second.provenance.run_id
    for name, frame in first.tables().items():
        assert frame.equals(second.tables()[name])
    chunked = pl.concat([table(rows[:1]), table(rows[1:])], rechunk=False)
    assert import_data(chunked).provenance.run_id == first.provenance.run_id
    assert import_data(table(rows[:1])).provenance.run_id != first.provenance.run_id


def test_a_written_import_is_read_back_and_takes_no_options(tmp_path):
    data = import_data(table([("p", "x", "y", "a", "w1"), ("p", "x", "x", "a", "w1")]))
    write_dataset(data, tmp_path / "d")
    again = import_data(tmp_path / "d")
    assert again.votes.equals(read_dataset(tmp_path / "d").votes)
    assert len(data.skipped) == 1 and again.skipped.equals(data.skipped)
    with pytest.raises(InputError, match="imported already"):
        import_data(tmp_path / "d", columns={"prompt": "prompt"})


def test_a_source_in_which_most_votes_repeat_says_what_may_be_missing():
    rows = [("s", "t", "a", "w1")] * 4
    frame = pl.DataFrame(rows, schema=["left", "right", "winner", "worker"], orient="row")
    assert any("map it to prompt or pair_id" in note for note in import_data(frame).notes)
