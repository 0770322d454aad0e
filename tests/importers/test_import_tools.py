"""The exports of annotation tools, from fixtures with their documented fields and odd cases."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from denoise.dataset import read_dataset, write_dataset
from denoise.errors import InputError
from denoise.importers import import_data

MTURK = """HITId,HITTypeId,AssignmentId,WorkerId,AssignmentStatus,SubmitTime,WorkTimeInSeconds,\
LifetimeApprovalRate,Input.text,Input.lang,Answer.category.label,Answer.sure.yes,Answer.sure.no
h1,t,a1,W1,Approved,Mon Sep 07 10:00:00 PDT 2020,12,100% (1/1),good,en,pos,true,false
h1,t,a2,W2,Rejected,Mon Sep 07 10:01:00 PDT 2020,3,50% (1/2),good,en,neg,false,true
h2,t,a3,W1,Approved,Mon Dec 07 10:00:00 PST 2020,14,100% (1/1),bad,en,neg,true,true
h3,t,a4,W3,Submitted,Mon Dec 07 10:02:00 PST 2020,,0% (0/0),good,en,pos,false,false
h3,t,a5,W4,Submitted,Mon Dec 07 10:03:00 PST 2020,8,0% (0/0),good,en,,true,false
h3,t,a6,,Submitted,Mon Dec 07 10:03:00 PST 2020,8,0% (0/0),good,en,pos,true,false
"""


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def form(data):
    return data.provenance.settings["form"]


def test_an_mturk_batch_with_republished_rejected_empty_and_anonymous_work(tmp_path):
    path = tmp_path / "batch.csv"
    path.write_text(MTURK)
    data = import_data(path, aspect="category.label")
    assert form(data) == "mturk"
    labels = data.labels
    assert labels["item_id"].to_list() == ["h1", "h1", "h2", "h1"]  # h3 has the input of h1
    assert labels["annotator_id"].to_list() == ["W1", "W2", "W1", "W3"]
    assert labels["label"].to_list() == ["pos", "neg", "neg", "pos"]
    assert labels["seconds"].to_list() == [12, 3, 14, None]
    assert labels["timestamp"][0] == datetime(2020, 9, 7, 17, tzinfo=UTC)
    assert labels["timestamp"][2] == datetime(2020, 12, 7, 18, tzinfo=UTC)
    assert labels["AssignmentStatus"][1] == "Rejected"  # the work stays, and so does its fate
    assert labels["lang"].to_list() == ["en"] * 4
    assert data.skipped["source_row"].to_list() == [4, 5]
    assert data.skipped["reason"].to_list() == ["no answer to the question", "'WorkerId' is empty"]
    assert any("republished HITs" in note and note.endswith(" 1") for note in data.notes)


def test_mturk_radio_buttons_are_one_question(tmp_path):
    path = tmp_path / "batch.csv"
    path.write_text(MTURK)
    data = import_data(path, aspect="sure")
    assert data.labels["label"].to_list() == ["yes", "no", "no + yes", "yes"]
    assert data.skipped["reason"].to_list() == ["no answer to the question", "'WorkerId' is empty"]
    with pytest.raises(InputError, match="several questions; give --aspect with one of 'category"):
        import_data(path)


def result(name, **value):
    return {"from_name": name, "to_name": "text", "type": next(iter(value)), "value": value}


def annotation(by, *results, **fields):
    return {
        "id": 1,
        "completed_by": by,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "lead_time": 2.5,
        "created_at": "2024-01-02T03:04:05Z",
        **fields,
    }


def test_label_studio_json_with_every_kind_of_annotation(tmp_path):
    cat, dog = result("animal", choices=["cat"]), result("animal", choices=["dog"])
    both = result("animal", choices=["dog", "cat"])
    tasks = [
        {
            "id": 11,
            "data": {"text": "x", "language": "en"},
            "annotations": [
                annotation(1, cat),
                annotation({"id": 2, "email": "a@b.c"}, dog, reviews=[{"accepted": False}]),
                annotation(3, both),
                annotation(4, cat, was_cancelled=True),
                annotation(5, dog, ground_truth=True),
                annotation(None, cat),
                annotation(6),
                annotation(7, result("stars", rating=4)),
            ],
            "drafts": [{"result": []}],
            "predictions": [],
        },
        {"id": 12, "data": {"text": "y", "language": "de"}, "annotations": [], "predictions": []},
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    data = import_data(path, aspect="animal")
    assert form(data) == "label-studio"
    assert data.labels["annotator_id"].to_list() == ["1", "a@b.c", "3"]
    assert data.labels["label"].to_list() == ["cat", "dog", "cat + dog"]
    assert data.labels["item_id"].to_list() == ["11"] * 3
    assert data.labels["seconds"].to_list() == [2.5] * 3
    assert data.labels["language"].to_list() == ["en"] * 3
    assert data.labels["accepted"].to_list() == [None, False, None]
    assert data.truth.rows() == [("11", "dog")]
    assert data.skipped["reason"].to_list() == [
        "cancelled or skipped",
        "'completed_by' is empty",
        "no answer to the question",
        "no answer to the question",
        "no annotations",
    ]
    assert data.skipped["source_row"].to_list() == [0, 0, 0, 0, 1]
    assert "drafts, which are no answers: 1" in data.notes
    assert import_data(path, aspect="stars").labels["label"].to_list() == ["4"]


def test_label_studio_comparisons_are_votes_and_ground_truth_is_oriented_with_them(tmp_path):
    left, right = result("which", selected="left"), result("which", selected="right")
    tasks = [
        {
            "id": 1,
            "data": {"prompt": "p", "answer1": "one", "answer2": "two", "annotation_id": "mine"},
            "completions": [
                annotation(None, left),
                annotation(1, left),
                annotation(2, right, honeypot=True),
            ],
        },
        {
            "id": 2,
            "data": {"prompt": "p", "answer1": "two", "answer2": "one"},
            "completions": [annotation(2, left), annotation(3, left, skipped=True)],
        },
        {
            "id": 3,
            "data": {"prompt": "q", "answer1": "k", "answer2": "m"},
            "completions": [annotation(2, left, ground_truth=True)],
        },
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    data = import_data(path)
    assert data.pairs["response_a"].to_list() == ["one"]
    assert data.votes["vote"].to_list() == ["a", "b"]
    assert data.votes["item_id"].to_list() == ["1", "2"]
    assert data.votes["source_annotation_id"].to_list() == ["mine", None]
    assert data.truth.rows() == [(data.pairs["pair_id"][0], "b")]
    assert data.skipped["reason"].to_list() == [
        "'completed_by' is empty",
        "cancelled or skipped",
        "a known answer to what nobody answered",
    ]
    write_dataset(data, tmp_path / "out")
    again = read_dataset(tmp_path / "out")
    assert again.truth.equals(data.truth)
    assert again.skipped.equals(data.skipped)


def test_known_answers_that_differ_are_none(tmp_path):
    answers = [result("q", choices=[label]) for label in ("x", "y")]
    known = [annotation(2, answer, ground_truth=True) for answer in answers]
    tasks = [{"id": 1, "data": {"t": "t"}, "annotations": [annotation(1, answers[0]), *known]}]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    data = import_data(path)
    assert data.truth is None
    assert data.skipped["reason"].to_list() == ["known answers that differ"] * 2


def test_label_studio_csv_with_choices_ratings_and_comparisons(tmp_path):
    path = tmp_path / "export.csv"
    path.write_text(
        "text,id,animal,stars,annotator,annotation_id,created_at,updated_at,lead_time\n"
        'x,1,cat,"[{""rating"": 4}]",a@b.c,1,2024-01-01,2024-01-02,3.5\n'
        'x,1,"{""choices"": [""dog"", ""cat""]}",,7,2,2024-01-01,2024-01-02,4\n'
        "y,2,,,7,3,2024-01-01,2024-01-02,\n"
        "y,2,dog,,,4,2024-01-01,2024-01-02,1\n"
    )
    data = import_data(path, aspect="animal")
    assert form(data) == "label-studio-rows"
    assert data.labels["label"].to_list() == ["cat", "cat + dog"]
    assert data.labels["annotator_id"].to_list() == ["a@b.c", "7"]
    assert data.labels["seconds"].to_list() == [3.5, 4]
    assert data.skipped["reason"].to_list() == [
        "no answer to the question",
        "'annotator' is empty",
    ]
    assert import_data(path, aspect="stars").labels["label"].to_list() == ["4"]
    path.write_text(
        "answer1,answer2,prompt,id,which,annotator,annotation_id,lead_time\n"
        'k,m,p,1,"[{""selected"": ""right""}]",7,1,3\n'
    )
    assert import_data(path).votes["vote"].to_list() == ["b"]


def test_argilla_flat_records_without_drafts_and_what_was_discarded(tmp_path):
    rows = [
        {
            "id": "r1",
            "text": "x",
            "topic": "news",
            "q.responses": ["yes", "no", "yes", "no"],
            "q.responses.users": ["u1", "u2", "u3", None],
            "q.responses.status": ["submitted", "draft", "discarded", "submitted"],
            "q.suggestion": "no",
            "many.responses": [["b", "a"]],
            "many.responses.users": ["u1"],
            "many.responses.status": ["submitted"],
        },
        {"id": "r2", "text": "y", "topic": "sport", "q.responses": None},
    ]
    data = import_data(lines(tmp_path / "records.jsonl", rows), aspect="q")
    assert form(data) == "argilla"
    assert data.labels.select("item_id", "annotator_id", "label").rows() == [("r1", "u1", "yes")]
    assert data.labels["topic"].to_list() == ["news"]
    assert data.skipped["reason"].to_list() == [
        "a draft",
        "discarded",
        "'q.responses.users' is empty",
        "no responses",
    ]
    many = import_data(tmp_path / "records.jsonl", aspect="many")
    assert many.labels["label"].to_list() == ["a + b"]


def test_argilla_nested_records(tmp_path):
    rows = [
        {
            "id": "r1",
            "fields": {"prompt": "p", "response_a": "k", "response_b": "m"},
            "metadata": {"language": "en"},
            "responses": {
                "better": [{"value": "b", "user_id": "u1"}, {"value": "a", "user_id": "u2"}],
                "order": [{"value": [{"value": "k", "rank": 2}, {"value": "m", "rank": 1}],
                           "user_id": "u1"}],
            },
        }
    ]  # fmt: skip
    path = lines(tmp_path / "records.jsonl", rows)
    data = import_data(path, aspect="better")
    assert data.votes["vote"].to_list() == ["b", "a"]
    assert data.votes["language"].to_list() == ["en", "en"]
    assert import_data(path, aspect="order").labels["label"].to_list() == ["m > k"]


def test_prodigy_choices_and_what_is_ignored_or_rejected(tmp_path):
    row = {"text": "x", "_input_hash": -5, "_task_hash": 9, "_timestamp": 1700000000}
    rows = [
        {**row, "accept": ["A"], "answer": "accept", "_annotator_id": "ds-ann"},
        {**row, "accept": ["B", "A"], "answer": "accept", "_annotator_id": "ds-bob"},
        {**row, "accept": ["A"], "answer": "ignore", "_annotator_id": "ds-cy"},
        {**row, "accept": [], "answer": "reject", "_annotator_id": "ds-dee"},
        {**row, "accept": [], "answer": "accept", "_annotator_id": "ds-eve"},
        {**row, "accept": ["A"], "answer": "accept", "_annotator_id": None},
        {**row, "accept": ["A"], "answer": "accept", "_session_id": "ds-flo"},
    ]
    data = import_data(lines(tmp_path / "db.jsonl", rows))
    assert form(data) == "prodigy"
    assert data.labels["annotator_id"].to_list() == ["ds-ann", "ds-bob", "ds-flo"]
    assert data.labels["label"].to_list() == ["A", "A + B", "A"]
    assert data.labels["item_id"].to_list() == ["-5"] * 3
    assert data.labels["timestamp"].to_list() == [1700000000] * 3
    assert data.skipped["reason"].to_list() == [
        "ignored",
        "rejected, so that none of the options is chosen",
        "no option is chosen",
        "'_annotator_id' is empty",
    ]


def test_prodigy_yes_or_no_without_names_belongs_to_all(tmp_path):
    rows = [
        {"_input_hash": 1, "_task_hash": 10, "label": "PERSON", "answer": "accept"},
        {"_input_hash": 1, "_task_hash": 11, "label": "PLACE", "answer": "reject"},
    ]
    data = import_data(lines(tmp_path / "db.jsonl", rows))
    assert data.labels.select("item_id", "annotator_id", "label").rows() == [
        ("10", "all", "accept"),
        ("11", "all", "reject"),
    ]
    assert data.labels["source_label"].to_list() == ["PERSON", "PLACE"]


def test_doccano_with_users_inside(tmp_path):
    rows = [
        {"id": 1, "text": "x", "annotations": [{"label": 2, "user": 1}, {"label": 3, "user": 2}]},
        {"id": 2, "text": "y", "annotations": [{"label": 2, "user": 1}, {"label": 3, "user": 1}]},
        {"id": 3, "text": "z", "annotations": []},
    ]
    data = import_data(lines(tmp_path / "all.jsonl", rows))
    assert form(data) == "doccano"
    assert data.labels.select("item_id", "annotator_id", "label").rows() == [
        ("1", "1", "2"),
        ("1", "2", "3"),
        ("2", "1", "2 + 3"),
    ]
    assert data.skipped["reason"].to_list() == ["no labels"]


def test_doccano_of_one_annotator_takes_the_name_of_the_file_when_it_is_named(tmp_path):
    rows = [{"id": 1, "text": "x", "label": ["pos"]}, {"id": 2, "text": "y", "label": []}]
    path = lines(tmp_path / "ann.jsonl", rows)
    with pytest.raises(InputError, match="of no known form"):
        import_data(path)
    data = import_data(path, format="doccano")
    assert data.labels.select("item_id", "annotator_id", "label").rows() == [("1", "ann", "pos")]
    assert data.skipped["reason"].to_list() == ["no labels"]
    spans = lines(tmp_path / "spans.jsonl", [{"id": 1, "text": "xy", "label": [[0, 1, "PER"]]}])
    with pytest.raises(InputError, match="labels of spans"):
        import_data(spans, format="doccano")


def one_file_an_annotator(folder):
    """What Doccano writes: two people on one text, the second's name with a dot."""
    folder.mkdir()
    for name, label in (("ann", "pos"), ("bob.b", "neg")):
        lines(folder / f"{name}.jsonl", [{"id": 1, "text": "x", "label": [label]}])
    return folder


def test_doccano_of_several_files_has_the_annotator_of_each(tmp_path):
    folder = one_file_an_annotator(tmp_path / "exports")
    data = import_data(f"{folder}/*.jsonl", format="doccano")
    assert data.labels["annotator_id"].to_list() == ["ann", "bob.b"]
    assert "the annotator is the name of the file: ann, bob.b" in data.notes
    (folder / "bob.b.jsonl").rename(folder / "cy.jsonl")
    again = import_data(f"{folder}/*.jsonl", format="doccano")
    assert again.provenance.run_id != data.provenance.run_id


def test_doccano_without_files_to_tell_annotators_apart_is_refused(tmp_path):
    folder = one_file_an_annotator(tmp_path / "exports")
    frame = pl.DataFrame({"id": [1], "text": ["x"], "label": [["pos"]]})
    for source in (folder, frame):
        with pytest.raises(InputError, match=r"nothing names the annotators; give .*/\*.jsonl'"):
            import_data(source, format="doccano")


def test_a_column_an_annotator(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text("id,annotator_1,annotator_2,topic\n007,a,b,t\n008,,b,t\n009,,,u\n")
    data = import_data(path)
    assert form(data) == "wide"
    assert data.labels.select("item_id", "annotator_id", "label", "topic").rows() == [
        ("007", "annotator_1", "a", "t"),
        ("007", "annotator_2", "b", "t"),
        ("008", "annotator_2", "b", "t"),
    ]
    assert data.skipped.select("source_row", "reason").rows() == [(2, "nobody answered")]


def test_any_columns_are_annotators_where_the_format_is_named():
    frame = pl.DataFrame({"key": ["x", "y"], "ann": [1, 0], "bob": [None, 1], "label": [1, 1]})
    with pytest.raises(InputError, match="of no known form"):
        import_data(frame)
    data = import_data(frame, format="wide", columns={"item": "key"})
    assert data.labels.select("item_id", "annotator_id", "label").rows() == [
        ("x", "ann", "1"),
        ("x", "label", "1"),
        ("y", "ann", "0"),
        ("y", "bob", "1"),
        ("y", "label", "1"),
    ]


def test_a_format_that_is_unknown_or_does_not_fit_is_refused():
    frame = pl.DataFrame({"item": ["x"], "annotator": ["a"], "label": ["y"]})
    with pytest.raises(InputError, match=r"no such format, found 'mturc'; .*mturk"):
        import_data(frame, format="mturc")
    with pytest.raises(InputError, match=r"not of the form mturk: 'item'.*it needs HITId"):
        import_data(frame, format="mturk")
    assert import_data(frame, format="labels").labels["label"].to_list() == ["y"]


def test_responses_and_users_of_unequal_number_leave_answers_of_nobody(tmp_path):
    rows = [{"id": "1", "q.responses": ["a", "b"], "q.responses.users": ["u"]}]
    data = import_data(lines(tmp_path / "records.jsonl", rows))
    assert data.labels["annotator_id"].to_list() == ["u"]
    assert data.skipped["reason"].to_list() == ["'q.responses.users' is empty"]


def test_times_that_are_no_numbers_are_counted():
    frame = pl.DataFrame(
        {"HITId": ["h", "h"], "WorkerId": ["v", "w"], "Answer.q": ["a", "b"]}
        | {"WorkTimeInSeconds": ["soon", "5"]}
    )
    data = import_data(frame)
    assert data.labels["seconds"].to_list() == [None, 5]
    assert "times taken that are no numbers, left out: 1" in data.notes


def test_words_from_the_data_are_safe_in_what_is_said(tmp_path):
    tasks = [
        {
            "id": 1,
            "data": {"label": "x", "source_row": 3},
            "annotations": [annotation(1, result("q\x1b[31m", choices=["a"]))],
        }
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    data = import_data(path)
    assert not any("\x1b" in note for note in data.notes)
    assert data.labels["source_row"].to_list() == [0]
    assert data.labels["source_source_row"].to_list() == [3]
