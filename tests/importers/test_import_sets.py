"""Published sets of preferences and ratings, from fixtures with their documented fields."""

from __future__ import annotations

import json

import polars as pl
import pytest

from denoise.errors import InputError
from denoise.importers import import_data

HELPSTEER3 = [
    {
        "domain": "code",
        "language": "python",
        "context": [{"role": "user", "content": "q"}],
        "response1": "one",
        "response2": "two",
        "overall_preference": -2,
        "individual_preference": [
            {"score": -3, "reasoning": "r", "feedback1": "f"},
            {"score": 0, "reasoning": "s", "feedback1": "f"},
            {"score": 1, "reasoning": "t", "feedback1": "f"},
            {"score": None, "reasoning": "u", "feedback1": "f"},
            {"score": 5, "reasoning": "v", "feedback1": "f"},
        ],
    },
    {
        "domain": "general",
        "language": "english",
        "context": [{"role": "user", "content": "h"}],
        "response1": "k",
        "response2": "m",
        "overall_preference": 1,
        "individual_preference": [],
    },
]


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_helpsteer3_has_a_vote_for_each_unnamed_person(tmp_path):
    data = import_data(written(tmp_path, HELPSTEER3))
    assert data.provenance.settings["form"] == "helpsteer3"
    assert data.votes["vote"].to_list() == ["a", "tie", "b"]
    assert data.votes["strength"].to_list() == ["much", None, "slightly"]
    assert data.votes["annotator_id"].unique().to_list() == ["all"]
    assert data.pairs["domain"].to_list() == ["code"]
    assert data.pairs["prompt"].to_list() == [[{"role": "user", "content": "q"}]]
    assert data.skipped["reason"].to_list() == [
        "there is no score",
        "the score is 5, which is none of -3 to 3",
        "there is no score",
    ]


def test_helpsteer3_without_individual_preferences_reads_the_overall_one(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "individual_preference"} for row in HELPSTEER3]
    data = import_data(written(tmp_path, rows))
    assert data.votes["vote"].to_list() == ["a", "b"]
    assert data.votes["strength"].to_list() == ["better", "slightly"]
    as_text = pl.DataFrame(rows).with_columns(overall_preference=pl.Series(["-2", "good"]))
    data = import_data(as_text)
    assert data.votes["vote"].to_list() == ["a"]
    assert data.skipped["reason"].to_list() == ["the score is 'good', which is none of -3 to 3"]


def utterance(interaction, turn, response, chosen, *, user="u1", prompt="q", score=50):
    return {
        "utterance_id": f"ut{interaction}{response}",
        "interaction_id": f"int{interaction}",
        "conversation_id": "c1",
        "user_id": user,
        "turn": turn,
        "within_turn_id": 0,
        "conversation_type": "unguided",
        "user_prompt": prompt,
        "model_response": response,
        "model_name": f"m-{response}",
        "model_provider": "p",
        "score": score,
        "if_chosen": chosen,
    }


def test_prism_compares_the_chosen_response_and_carries_the_dialogue_on(tmp_path):
    rows = [
        utterance(2, 1, "x", True, prompt="more"),  # the second turn stands first
        utterance(2, 1, "y", False, prompt="more"),
        utterance(1, 0, "k", False, score=10),
        utterance(1, 0, "m", True, score=90),
        utterance(1, 0, "n", False, score=20),
        utterance(3, 2, "alone", True),
        utterance(4, 3, "v", False),
        utterance(4, 3, "w", False),
        utterance(5, 4, "", True, user=None),
        utterance(5, 4, "z", False, user=None),
    ]
    data = import_data(written(tmp_path, rows))
    assert data.provenance.settings["form"] == "prism"
    assert data.votes["vote"].to_list() == ["a", "b", "a"]
    assert data.votes["annotator_id"].to_list() == ["u1"] * 3
    assert data.votes["score_first"].to_list() == [50, 10, 90]
    assert data.votes["source_row"].to_list() == [1, 2, 4]
    said = [[message["content"] for message in prompt] for prompt in data.pairs["prompt"]]
    assert said == [["q", "m", "more"], ["q"], ["q"]]
    assert [r[0]["content"] for r in data.pairs["response_a"]] == ["x", "k", "m"]
    assert data.skipped["reason"].to_list() == [
        "only one response in this turn",
        "0 responses are chosen in this turn",
        "0 responses are chosen in this turn",
        "'user_id' is empty",
    ]


DICES = """rater_id,rater_gender,item_id,response,Q1_whole_conversation_evaluation,Q_overall,\
answer_time_ms,answer_timestamp,safety_gold
r1,Woman,1,hello,No,No,1500,2022-01-01,Yes
r2,Man,1,hello,Yes,Unsure,2500,2022-01-02,Yes
r1,Woman,2,hi,No,,1500,2022-01-03,
,Man,2,hi,No,Yes,1500,2022-01-04,
"""


def test_dices_takes_the_overall_question_and_keeps_the_gold_apart(tmp_path):
    path = tmp_path / "dices.csv"
    path.write_text(DICES)
    data = import_data(path)
    assert data.provenance.settings["form"] == "dices"
    assert data.labels.select("item_id", "annotator_id", "label").rows() == [
        ("1", "r1", "No"),
        ("1", "r2", "Unsure"),
    ]
    assert data.labels["seconds"].to_list() == [1.5, 2.5]
    assert data.labels["timestamp"].to_list() == ["2022-01-01", "2022-01-02"]
    assert data.labels["rater_gender"].to_list() == ["Woman", "Man"]
    assert data.truth.rows() == [("1", "Yes")]
    assert data.skipped["reason"].to_list() == ["no answer to the question", "'rater_id' is empty"]


def test_dices_has_other_questions_whose_answers_are_not_known(tmp_path):
    path = tmp_path / "dices.csv"
    path.write_text(DICES)
    data = import_data(path, aspect="Q1_whole_conversation_evaluation")
    assert data.labels["label"].to_list() == ["No", "Yes", "No"]
    assert data.truth is None
    with pytest.raises(InputError, match="no such question, found 'Q_tone'"):
        import_data(path, aspect="tone")


def test_a_published_set_is_recognised_from_a_table_in_memory():
    assert import_data(pl.DataFrame(HELPSTEER3)).provenance.settings["form"] == "helpsteer3"
