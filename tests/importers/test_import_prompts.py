"""Prompts that lie inside the responses: TRL's rule, and transcripts in the HH style."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from denoise.importers import import_data
from denoise.importers.content import ASSISTANT, common_length, split_prompt, split_text

TEXT = st.text(alphabet=" ab\né🙂", max_size=12)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.sampled_from(["x", "y", " "])}
)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@given(TEXT, TEXT, TEXT)
def test_common_length_is_that_of_an_element_by_element_comparison(start, left, right):
    left, right = start + left, start + right
    expected = 0
    while expected < min(len(left), len(right)) and left[expected] == right[expected]:
        expected += 1
    assert common_length(left, right) == expected


@given(TEXT, TEXT, TEXT)
def test_text_is_cut_where_trl_cuts_it(start, left, right):
    trl = pytest.importorskip("trl.data_utils")
    left, right = start + left, start + right
    assume(left and right)  # TRL's function fails on an empty side
    assume(left[0] == right[0] or left[-1] != " ")  # TRL looks at element -1 there
    cut = split_prompt(left, right)
    theirs = trl.extract_prompt({"chosen": left, "rejected": right})
    assert theirs == {"prompt": left[:cut], "chosen": left[cut:], "rejected": right[cut:]}


@given(st.lists(TURN, max_size=3), st.lists(TURN, max_size=3), st.lists(TURN, max_size=3))
def test_turns_are_cut_where_trl_cuts_them(start, left, right):
    trl = pytest.importorskip("trl.data_utils")
    left, right = start + left, start + right
    assume(left and right)
    cut = split_prompt(left, right)
    theirs = trl.extract_prompt({"chosen": left, "rejected": right})
    assert theirs == {"prompt": left[:cut], "chosen": left[cut:], "rejected": right[cut:]}


def test_sides_that_differ_at_once_have_no_prompt_even_where_trl_looks_at_the_last_element():
    assert split_prompt("ab ", "b ") == 0
    assert split_prompt("", "b") == 0


def test_a_transcript_is_cut_at_its_last_common_turn_and_not_inside_the_responses():
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant:"
    cut, transcript = split_text(f"{start} I think so.", f"{start} I think not.")
    assert transcript and cut == len(start)
    # Where a dialogue goes apart earlier, its prompt ends earlier.
    other = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: what?\n\nAssistant: I think so."
    cut, transcript = split_text(f"{start} I think so.", other)
    assert transcript and start[:cut] == "\n\nHuman: hi\n\nAssistant:"


def test_text_without_a_prompt_column_is_cut_and_nothing_of_it_is_lost():
    chosen, rejected = "Q: why? A: because", "Q: why? A: no idea"
    data = import_data(pl.DataFrame({"chosen": [chosen], "rejected": [rejected]}))
    pair = data.pairs.row(0, named=True)
    assert pair["prompt"] == "Q: why? A:"
    sides = {pair["prompt"] + pair["response_a"], pair["prompt"] + pair["response_b"]}
    assert sides == {chosen, rejected}


def test_a_transcript_that_repeats_its_prompt_column_loses_it():
    prompt = f"\n\nHuman: hi{ASSISTANT}"
    frame = pl.DataFrame(
        {"prompt": [prompt], "chosen": [prompt + " a"], "rejected": [prompt + " b"]}
    )
    pair = import_data(frame).pairs.row(0, named=True)
    assert pair["prompt"] == prompt
    assert {pair["response_a"], pair["response_b"]} == {" a", " b"}


def test_text_whose_responses_begin_like_a_short_prompt_stays_whole():
    frame = pl.DataFrame({"prompt": ["Hi"], "chosen": ["Hi there"], "rejected": ["Hi you"]})
    pair = import_data(frame).pairs.row(0, named=True)
    assert pair["prompt"] == "Hi"
    assert {pair["response_a"], pair["response_b"]} == {"Hi there", "Hi you"}


@pytest.mark.parametrize(
    ("prompt", "lead", "expected"),
    [
        (None, [user("q")], [user("q")]),
        ("q", [user("q")], [user("q")]),
        ("q", [], [user("q")]),
        ([user("q")], [], [user("q")]),
        ([user("q")], [user("q")], [user("q")]),
    ],
)
def test_chat_prompts_are_turns_wherever_they_stand(prompt, lead, expected):
    columns = {"chosen": [[*lead, assistant("x")]], "rejected": [[*lead, assistant("y")]]}
    frame = pl.DataFrame(columns if prompt is None else {"prompt": [prompt], **columns})
    data = import_data(frame)
    pair = data.pairs.row(0, named=True)
    assert pair["prompt"] == expected
    sides = [pair["response_a"], pair["response_b"]]
    assert sorted(sides, key=str) == [[assistant("x")], [assistant("y")]]
    assert pair[f"response_{data.votes['vote'][0]}"] == [assistant("x")]


def test_a_text_prompt_replaced_by_turns_stays_a_column_of_the_vote():
    """UltraFeedback-binarized: a text prompt, and messages that begin with it as a user turn."""
    frame = pl.DataFrame(
        {
            "prompt": ["q", "r"],
            "chosen": [[user("q"), assistant("x")], [user("r"), assistant("x")]],
            "rejected": [[user("q"), assistant("y")], [user("r"), assistant("z")]],
            "score_chosen": [8.0, 7.5],
            "score_rejected": [3.0, 7.0],
        }
    )
    data = import_data(frame)
    assert data.pairs["prompt"].to_list() == [[user("q")], [user("r")]]
    assert data.votes["source_prompt"].to_list() == ["q", "r"]
    assert data.votes["score_chosen"].to_list() == [8.0, 7.5]
    assert any("'prompt' -> 'source_prompt'" in note for note in data.notes)


def test_a_chat_prompt_makes_turns_of_text_responses():
    frame = pl.DataFrame({"prompt": [[user("q")]], "chosen": ["x"], "rejected": ["y"]})
    pair = import_data(frame).pairs.row(0, named=True)
    assert {pair["response_a"][0]["content"], pair["response_b"][0]["content"]} == {"x", "y"}


def test_messages_with_other_fields_in_another_order_are_one_kind():
    frame = pl.DataFrame(
        {
            "prompt": [[{"content": "q", "role": "user"}]],
            "chosen": [[{"role": "assistant", "content": "x", "score": 1}]],
            "rejected": [[{"content": "y", "role": "assistant"}]],
        }
    )
    pairs = import_data(frame).pairs
    assert pairs.schema["prompt"] == pairs.schema["response_a"] == pairs.schema["response_b"]
    assert pairs["prompt"].to_list() == [[{"role": "user", "content": "q", "score": None}]]
