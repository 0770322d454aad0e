"""Importers and the table reader on inputs that nobody would write: a clear error, or a table.

`DENOISE_FUZZ` is the number of examples of each test (60 unless set).
"""

import json
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from denoise import schema, tables
from denoise.errors import DenoiseError
from denoise.importers import import_data
from denoise.stages.em import em

EXAMPLES = int(os.environ.get("DENOISE_FUZZ", "60"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ROWS = [
    {"prompt": "p", "chosen": "good", "rejected": "bad", "annotator": "x", "margin": 0.5},
    {"prompt": "q", "chosen": "yes", "rejected": "no", "annotator": "y", "margin": -1.0},
]
SEEDS = {
    "pairs.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "pairs.json": json.dumps(ROWS).encode(),
    "pairs.csv": b"prompt,chosen,rejected,annotator\np,good,bad,x\nq,yes,no,y\n",
    "labels.csv": b"item,annotator,label\n1,x,yes\n1,y,no\n2,x,yes\n",
    "mturk.csv": b'"HITId","WorkerId","AssignmentId","WorkTimeInSeconds","Input.text",'
    b'"Answer.label"\n"h1","w1","a1","12","t","yes"\n"h1","w2","a2","9","t","no"\n',
    "label_studio.json": json.dumps(
        [
            {
                "id": 1,
                "data": {"text": "t"},
                "annotations": [
                    {
                        "id": 1,
                        "completed_by": 3,
                        "lead_time": 2.5,
                        "result": [
                            {
                                "from_name": "label",
                                "to_name": "text",
                                "type": "choices",
                                "value": {"choices": ["yes"]},
                            }
                        ],
                    }
                ],
            }
        ]
    ).encode(),
    "prodigy.jsonl": b'{"text":"t","_input_hash":1,"_task_hash":2,"answer":"accept","label":"A",'
    b'"_annotator_id":"x","_session_id":"s"}\n',
}
ODD = [
    b"\x00",
    b"\xff\xfe",
    "\u202e".encode(),
    "\u200b".encode(),
    b"\\ud800",
    b"NaN",
    b"1e999",
    b'"',
    b"\n",
]
ODD += [b"{", b"]", b",,,", b"null", b"9" * 400, b"-Infinity", "𝔘".encode(), b"\r", b"=1+1"]
EDIT = st.tuples(
    st.floats(0, 1), st.integers(0, 12), st.one_of(st.sampled_from(ODD), st.binary(max_size=8))
)


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Each edit takes some bytes out somewhere and puts others in their place."""
    for where, length, put in edits:
        at = int(where * len(data))
        data = data[:at] + put + data[at + length :]
    return data


def must_be_clear(error: DenoiseError) -> None:
    text = str(error)
    assert text and "Traceback" not in text and len(text) < 20_000


@pytest.mark.parametrize("name", SEEDS)
@FUZZ
@given(edits=st.lists(EDIT, min_size=1, max_size=4))
def test_an_edited_export_is_read_or_refused(name, edits, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz", numbered=True) / name
    path.write_bytes(edited(SEEDS[name], edits))
    try:
        data = import_data(str(path))
    except DenoiseError as error:
        must_be_clear(error)
        return
    finally:
        path.unlink()
        path.parent.rmdir()
    if data.is_preference:
        assert set(data.votes["pair_id"]) <= set(data.pairs["pair_id"])
        assert set(data.votes["vote"]) <= set(schema.VOTES)
    else:
        assert data.labels["label"].null_count() == 0


VALUE = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["a", "b", "tie", "x" * 1000, "\u202e", "\u200f", ""]),
)


@FUZZ
@given(
    columns=st.dictionaries(
        st.sampled_from(["vote_id", "pair_id", "annotator_id", "vote", "strength", "other"]),
        st.lists(VALUE, min_size=6, max_size=6),
        min_size=1,
    )
)
def test_any_table_under_the_name_of_votes_is_taken_or_refused(columns, tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("fuzz", numbered=True) / "votes.parquet"
    made = {}
    for name, values in columns.items():
        series = pl.Series(name, values, strict=False)
        made[name] = (
            pl.Series(name, list(map(str, values))) if series.dtype == pl.Object else series
        )
    pl.DataFrame(made).write_parquet(path)
    try:
        frame, _ = tables.read_table(path, schema.VOTE_ROWS)
    except DenoiseError as error:
        must_be_clear(error)
    else:
        assert schema.faults(frame, schema.VOTE_ROWS, path) == []
    finally:
        path.unlink()
        path.parent.rmdir()


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from("ab")), min_size=1))
def test_who_contradicts_himself_counts_as_a_tie_whatever_the_order(rows):
    """Repeated votes of one annotator on one pair, in any order and number."""
    from denoise.dataset import Dataset
    from denoise.tables import Provenance

    pairs = pl.DataFrame({"pair_id": [f"p{i}" for i in range(4)]}).with_columns(
        prompt=pl.lit("q"), response_a=pl.lit("1"), response_b=pl.lit("2")
    )

    def found(order):
        votes = pl.DataFrame(
            [(i, f"p{p}", f"k{k}", v) for i, (p, k, v) in enumerate(order)],
            schema=["vote_id", "pair_id", "annotator_id", "vote"],
            orient="row",
        )
        try:
            result = em(Dataset(Provenance("import"), pairs=pairs, votes=votes))
        except DenoiseError as error:
            return str(error)
        return result.annotators.select("annotator_id", "reliability", "n_votes").sort(
            "annotator_id"
        )

    one, other = found(rows), found(rows[::-1])
    if isinstance(one, str):
        assert one == other
    else:
        off = (one["reliability"].fill_null(0) - other["reliability"].fill_null(0)).abs().max()
        assert off < 1e-9
