"""Every form that is recognised, by what its rows become."""

from __future__ import annotations

import polars as pl
import pytest

from denoise.errors import InputError
from denoise.importers import FORMS, import_data


def turns(*contents):
    roles = ["user", "assistant"] * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def sides(**columns):
    return pl.DataFrame({"prompt": ["p", "q", "r"], **columns})


def test_no_two_forms_share_a_name():
    assert len({form.name for form in FORMS}) == len(FORMS)


@pytest.mark.parametrize(
    "names",
    [
        ("left", "right"),
        ("response_a", "response_b"),
        ("answer_a", "answer_b"),
        ("completion_a", "completion_b"),
        ("output_1", "output_2"),
        ("response1", "response2"),
        ("Response A", "Response B"),
    ],
)
def test_comparisons_under_many_names(names):
    left, right = names
    frame = sides(**{left: ["x", "y", "z"], right: ["k", "l", "m"], "winner": [left, right, "tie"]})
    data = import_data(frame)
    assert data.votes["vote"].to_list() == ["a", "b", "tie"]
    assert data.pairs["response_a"].to_list() == ["x", "y", "z"]
    assert data.provenance.settings["form"] == "comparisons"


@pytest.mark.parametrize(
    ("winners", "expected"),
    [
        (["a", "b", "tie"], ["a", "b", "tie"]),
        (["A", " b ", "TIE"], ["a", "b", "tie"]),
        (["left", "right", "equal"], ["a", "b", "tie"]),
        (["model_a", "model_b", "tie (bothbad)"], ["a", "b", "tie"]),
        (["Model B", "model-a", "both_bad"], ["b", "a", "tie"]),
        ([1, 2, 0], ["a", "b", "tie"]),
        ([1.0, 2.0, 2.0], ["a", "b", "b"]),
        ([0, 1, 1], ["a", "b", "b"]),
        (["x", "l", "tie"], ["a", "b", "tie"]),
        (["x", "b", "m"], ["a", "b", "b"]),
        (["gpt", "llama", "Both"], ["a", "b", "tie"]),
    ],
)
def test_what_a_winner_column_says(winners, expected):
    frame = sides(
        left=["x", "y", "z"],
        right=["k", "l", "m"],
        model_a=["gpt", "gpt", "gpt"],
        model_b=["llama", "llama", "llama"],
        winner=winners,
    )
    data = import_data(frame)
    assert data.votes["vote"].to_list() == expected
    assert data.votes["winner"].to_list() == winners  # the source's own words stay


@pytest.mark.parametrize(
    ("names", "winners"),
    [
        (("response_1", "response_2"), [0, 1, 1]),  # counted from 0, or 0 for a tie?
        (("response_0", "response_1"), [0, 1, 2]),
        (("left", "right"), [1, 1, 1]),
        (("left", "right"), ["1", "1", "left"]),
    ],
)
def test_numbers_that_could_mean_either_response_are_refused(names, winners):
    winners = pl.Series(winners, strict=False)
    columns = {names[0]: ["x", "y", "z"], names[1]: ["k", "l", "m"], "winner": winners}
    with pytest.raises(InputError, match="not clear which response a number means"):
        import_data(sides(**columns))


def test_zero_and_one_in_a_column_called_label_may_be_no_and_yes_until_it_is_mapped():
    frame = sides(left=["x", "y", "z"], right=["k", "l", "m"], label=[0, 1, 1])
    with pytest.raises(InputError, match="not clear"):
        import_data(frame)
    data = import_data(frame, columns={"winner": "label"})
    assert data.votes["vote"].to_list() == ["a", "b", "b"]


def test_counting_from_zero_is_clear_where_the_columns_do_so():
    frame = sides(response_0=["x", "y", "z"], response_1=["k", "l", "m"], choice=[1, 1, 1])
    assert import_data(frame).votes["vote"].to_list() == ["b", "b", "b"]


def test_names_that_speak_against_the_sides_are_refused():
    frame = sides(left=["b", "b", "b"], right=["a", "a", "a"], winner=["a", "b", "a"])
    with pytest.raises(InputError, match="as the name of a side and as the winning text"):
        import_data(frame)


def test_a_winner_column_without_a_word_that_is_understood_is_refused():
    frame = sides(left=["x", "y", "z"], right=["k", "l", "m"], winner=["yes", "no", "yes"])
    with pytest.raises(InputError, match=r"no value is understood, found 'yes, no'"):
        import_data(frame)


def test_arena_conversations_share_their_first_turns():
    frame = pl.DataFrame(
        {
            "question_id": ["1", "2", "3"],
            "model_a": ["gpt"] * 3,
            "model_b": ["llama"] * 3,
            "winner": ["model_a", "model_b", "tie (bothbad)"],
            "judge": ["j1", "j2", "j1"],
            "conversation_a": [turns("q", "x"), turns("q", "y"), turns("h", "1", "more", "2")],
            "conversation_b": [turns("q", "y"), turns("q", "x"), turns("h", "1", "more", "3")],
            "turn": [1, 1, 2],
            "tstamp": [1.5, 2.5, 3.5],
        }
    )
    data = import_data(frame)
    assert data.provenance.settings["form"] == "arena"
    assert len(data.pairs) == 2
    assert data.pairs["prompt"].to_list() == [turns("q"), turns("h", "1", "more")]
    assert data.pairs["response_a"].to_list() == [turns("q", "x")[1:], turns("h", "2")[1:]]
    # The second row shows the same two answers the other way round.
    assert data.votes["vote"].to_list() == ["a", "a", "tie"]
    assert data.votes["swapped"].to_list() == [False, True, False]
    assert data.votes["annotator_id"].to_list() == ["j1", "j2", "j1"]
    assert data.votes["timestamp"].to_list() == [1.5, 2.5, 3.5]
    assert data.votes["winner"][2] == "tie (bothbad)"


def annotation(evaluator, overall, **more):
    return {
        "evaluator": evaluator,
        "overall_pref": overall,
        "helpful_pref": "Tie",
        "overall_confidence": "fairly-confident",
        "time_spent": 12,
        "timestamp": "2024-05-01",
        **more,
    }


def multipref(**changes):
    rows = [
        {
            "comparison_id": "c1",
            "text": "q",
            "completion_a": "x",
            "completion_b": "y",
            "model_a": "gpt",
            "normal_worker_annotations": [
                annotation("e1", "A-is-clearly-better"),
                annotation("e2", "Tie"),
            ],
            "expert_worker_annotations": [
                annotation("e3", "B-is-slightly-better"),
                annotation("e4", None),
            ],
        },
        {
            "comparison_id": "c2",
            "text": "r",
            "completion_a": "x",
            "completion_b": "z",
            "model_a": "llama",
            "normal_worker_annotations": [],
            "expert_worker_annotations": [annotation("e5", "A-is-slightly-better")],
        },
        {
            "comparison_id": "c3",
            "text": "r",
            "completion_a": "k",
            "completion_b": "z",
            "model_a": "llama",
            "normal_worker_annotations": [],
            "expert_worker_annotations": [],
        },
    ]
    return pl.DataFrame([row | changes for row in rows])


def test_multipref_has_a_vote_for_each_annotation_of_both_groups():
    data = import_data(multipref())
    votes = data.votes
    assert data.pairs["pair_id"].to_list() == ["c1", "c2"]
    assert data.pairs["model_a"].to_list() == ["gpt", "llama"]
    assert votes["vote_id"].to_list() == [0, 1, 2, 4]
    assert votes["source_row"].to_list() == [0, 0, 0, 1]
    assert votes["vote"].to_list() == ["a", "tie", "b", "a"]
    assert votes["strength"].to_list() == ["clearly", None, "slightly", "slightly"]
    assert votes["annotator_group"].to_list() == ["normal", "normal", "expert", "expert"]
    assert votes["seconds"].to_list() == [12.0] * 4
    assert votes["overall_confidence"].to_list() == ["fairly-confident"] * 4
    assert data.skipped.select("source_row", "reason").rows() == [
        (0, "'overall_pref' is empty"),
        (2, "no annotations"),
    ]
    assert '"c3"' in data.skipped["content"][1]


def test_multipref_answers_other_questions_as_an_aspect():
    data = import_data(multipref(), aspect="helpful")
    assert data.votes["vote"].to_list() == ["tie"] * 5
    assert data.provenance.settings["aspect"] == "helpful"
    with pytest.raises(InputError, match=r"no such aspect, found 'kind'.*overall, helpful"):
        import_data(multipref(), aspect="kind")


def test_columns_of_a_nested_source_move_to_the_votes_where_rows_of_one_pair_differ():
    frame = (
        multipref()
        .drop("comparison_id")
        .with_columns(text=pl.lit("q"), completion_b=pl.lit("y"), same=pl.lit(1))
    )
    data = import_data(frame.with_columns(completion_a=pl.lit("x")))
    assert len(data.pairs) == 1
    assert data.pairs.columns[4:] == ["same"]
    assert set(data.votes["model_a"]) == {"gpt", "llama"}


def test_an_aspect_is_refused_where_there_is_one_question():
    frame = sides(chosen=["x"] * 3, rejected=["y"] * 3)
    with pytest.raises(InputError, match="has no aspects"):
        import_data(frame, aspect="helpful")


def test_summaries_are_judged_as_continuations_of_their_post():
    def row(choice, *texts, **info):
        summaries = [{"text": text, "policy": "sup"} for text in texts]
        return {"info": info, "summaries": summaries, "choice": choice, "worker": "w", "batch": "7"}

    post = {"id": "t3", "post": "long", "title": "T", "subreddit": "r", "article": None}
    frame = pl.DataFrame([row(1, "s1", "s2", **post), row(0, "s1", **post)])
    data = import_data(frame)
    assert data.pairs.row(0)[1:] == (
        "SUBREDDIT: r\n\nTITLE: T\n\nPOST: long\n\nTL;DR:",
        "s1",
        "s2",
    )
    assert data.votes["vote"].to_list() == ["b"]
    assert data.votes["batch"].to_list() == ["7"]
    assert data.votes["summaries"].to_list()[0][1]["policy"] == "sup"
    assert data.skipped["reason"].to_list() == ["'summaries' holds 1 summaries, not 2"]


VOTES = pl.DataFrame(
    {
        "task": [1, 1, 2, 3],
        "performer": ["w7", "w8", "w7", "w7"],
        "label": ["left", "right", "tie", "left"],
        "n": [5, 6, 7, 8],
    }
)
TEXTS = pl.DataFrame(
    {
        "task": [1, 2, 9],
        "prompt": ["p", "q", "r"],
        "left": ["x", "y", "k"],
        "right": ["z", "w", "l"],
        "source": ["s1", "s2", "s3"],
    }
)


def test_long_votes_find_their_texts():
    data = import_data(VOTES, texts=TEXTS)
    assert data.pairs.columns == ["pair_id", "prompt", "response_a", "response_b", "source"]
    assert data.pairs["pair_id"].to_list() == ["1", "2"]
    assert data.votes["vote"].to_list() == ["a", "b", "tie"]
    assert data.votes["n"].to_list() == [5, 6, 7]
    assert data.skipped["reason"].to_list() == ["there are no texts for this 'task'"]
    assert set(data.provenance.inputs) == {"source", "texts"}
    assert any("no vote is about, left out: 1" in note for note in data.notes)


def test_long_votes_may_name_the_winning_text_and_map_the_columns_of_the_texts():
    votes = VOTES.with_columns(label=pl.Series(["x", "z", "w", "x"]))
    texts = TEXTS.rename({"task": "pair_id", "left": "one", "right": "other", "prompt": "ask"})
    mapped = {"response_a": "one", "response_b": "other", "prompt": "ask"}
    data = import_data(votes, texts=texts, columns=mapped)
    assert data.votes["vote"].to_list() == ["a", "b", "b"]
    assert data.pairs["prompt"].to_list() == ["p", "q"]


def test_texts_that_do_not_fit_the_votes_are_refused():
    with pytest.raises(InputError, match="lacks the two responses"):
        import_data(VOTES, texts=TEXTS.drop("left"))
    with pytest.raises(InputError, match="lacks a key"):
        import_data(VOTES, texts=TEXTS.drop("task"))
    with pytest.raises(InputError, match="no vote is about one of these texts"):
        import_data(VOTES, texts=TEXTS.with_columns(pl.col("task") + 100))
    twice = pl.concat([TEXTS, TEXTS.head(1).with_columns(prompt=pl.lit("other"))])
    with pytest.raises(InputError, match="other texts in an earlier row"):
        import_data(VOTES, texts=twice)
    with pytest.raises(InputError, match="no known form"):
        import_data(sides(chosen=["x"] * 3, rejected=["y"] * 3), texts=TEXTS)


def test_long_votes_with_the_texts_in_the_same_rows_are_comparisons():
    frame = pl.DataFrame(
        {"task": [1, 1], "worker": ["u", "v"], "label": ["a", "b"], "text_a": ["x"] * 2}
    )
    data = import_data(frame.with_columns(text_b=pl.lit("y"), prompt=pl.lit("p")))
    assert len(data.pairs) == 1
    assert data.votes["vote"].to_list() == ["a", "b"]
    assert data.votes["task"].to_list() == [1, 1]


@pytest.mark.parametrize(
    "names",
    [
        ("item", "annotator", "label"),
        ("task", "worker", "label"),
        ("task", "performer", "label"),
        ("item_id", "rater_id", "answer"),
        ("HITId", "WorkerId", "Label"),
    ],
)
def test_categorical_tables_become_labels(names):
    rows = [(1, True, 0), (1, False, 1), (2, True, None), (2, True, 1)]
    frame = pl.DataFrame(rows, schema=[*names], orient="row").with_columns(
        seconds=pl.lit(2), prior_0=pl.lit(0.5)
    )
    data = import_data(frame)
    assert data.labels.columns == ["item_id", "annotator_id", "label", "seconds", "prior_0"]
    assert data.labels.rows()[0] == ("1", "true", "0", 2.0, 0.5)
    assert data.skipped["source_row"].to_list() == [2]
    assert not data.is_preference


def test_repeated_labels_stay_and_are_counted():
    frame = pl.DataFrame({"item": ["1"] * 2, "annotator": ["w"] * 2, "label": ["x", "y"]})
    data = import_data(frame)
    assert len(data.labels) == 2
    assert any("to an item, which stay: 1" in note for note in data.notes)


def test_an_unknown_form_lists_the_columns_and_the_forms():
    with pytest.raises(InputError) as caught:
        import_data(pl.DataFrame({"foo": [1], "bar": [2]}))
    message = str(caught.value)
    assert "'foo', 'bar'" in message
    assert all(form.needs in message for form in FORMS if not form.needs_texts)
    assert "--map chosen=COLUMN" in message


def test_a_map_says_which_column_is_which():
    frame = pl.DataFrame(
        {"good": ["x"], "bad": ["y"], "prompt": ["junk"], "ask": ["p"], "by": ["w"]}
    )
    roles = {"chosen": "good", "rejected": "bad", "prompt": "ask", "annotator": "by"}
    data = import_data(frame, columns=roles)
    assert data.pairs["prompt"].to_list() == ["p"]
    assert data.votes["annotator_id"].to_list() == ["w"]
    assert data.votes["source_prompt"].to_list() == ["junk"]
    assert data.provenance.settings["columns"] == roles


def test_a_map_that_does_not_fit_names_every_fault():
    frame = pl.DataFrame({"good": ["x"], "bad": ["y"]})
    with pytest.raises(InputError) as caught:
        import_data(frame, columns={"chosn": "good", "rejected": "worse"})
    assert len(caught.value.faults) == 2
    assert "found 'chosn'" in str(caught.value) and "the columns are 'good', 'bad'" in str(
        caught.value
    )
    with pytest.raises(InputError, match="no place for, found 'label'"):
        import_data(
            frame.with_columns(l=pl.lit("a")),
            columns={"chosen": "good", "rejected": "bad", "label": "l"},
        )


@pytest.mark.parametrize("value", [{"text": "x"}, [["x"]], ["x"]])
def test_responses_that_are_neither_text_nor_messages_are_refused(value):
    frame = pl.DataFrame({"chosen": [value], "rejected": [value]})
    with pytest.raises(InputError, match=r"the table: column 'chosen': wrong type"):
        import_data(frame)


def test_messages_without_content_or_role_are_skipped():
    broken = [{"role": "assistant", "content": None}]
    frame = pl.DataFrame(
        {
            "prompt": [turns("q")] * 3,
            "chosen": [turns("q", "x")[1:], broken, []],
            "rejected": [turns("q", "y")[1:]] * 3,
        }
    )
    data = import_data(frame)
    assert data.skipped["reason"].to_list() == [
        "a message in 'chosen' lacks its role or content",
        "'chosen' has no messages",
    ]


def test_something_else_than_a_source_is_refused():
    with pytest.raises(InputError, match="this cannot be imported, found 'list'"):
        import_data([{"chosen": "x"}])
