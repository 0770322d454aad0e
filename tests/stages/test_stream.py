"""EM by row group against EM in memory: the same tables, summary and refusals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from denoise import tables
from denoise.dataset import read_dataset
from denoise.errors import InputError
from denoise.stages import em as stage
from denoise.stages import stream
from denoise.stages.em import em, join_scores, read_em, write_em
from denoise.stages.stream import em_stream
from denoise.stages.stream import rows as stream_rows
from denoise.tables import Provenance

N_PAIRS, N_ANNOTATORS = 400, 12


def write(directory, pairs, votes, *, row_group=500, provenance=None):
    """The tables as a user's own or, with provenance, as `import` would write them."""
    directory.mkdir(exist_ok=True)
    metadata = {tables.METADATA_KEY: provenance.to_json()} if provenance else None
    for name, frame in {"pairs": pairs, "votes": votes}.items():
        path = directory / f"{name}.parquet"
        frame.write_parquet(path, row_group_size=row_group, metadata=metadata)
    return directory


def data(seed=0, *, n_votes=2_500, increasing=True, shared=0.0):
    """Votes of 12 annotators with ties, repetitions and contradictions; some pairs without any."""
    rng = np.random.default_rng(seed)
    ids = [f"p{i:05d}" for i in rng.permutation(N_PAIRS)]
    truth = rng.random(N_PAIRS) < 0.5
    eta = rng.uniform(0.55, 0.97, N_ANNOTATORS)
    pair = rng.integers(0, N_PAIRS - 20, n_votes)
    who = rng.integers(0, N_ANNOTATORS, n_votes)
    right = rng.random(n_votes) < eta[who]
    vote = np.where(right == truth[pair], "a", "b")
    vote = np.where((rng.random(n_votes) < 0.08) | (pair % 37 == 0), "tie", vote)
    names = np.array([f"who {k}" for k in rng.permutation(N_ANNOTATORS)])
    vote_id = np.arange(n_votes) * 3
    votes = pl.DataFrame(
        {
            "vote_id": vote_id if increasing else rng.permutation(vote_id),
            "pair_id": np.array(ids)[pair],
            "annotator_id": np.where(rng.random(n_votes) < shared, "all", names[who]),
            "vote": vote,
        }
    )
    margin = rng.normal(0, 1.5, N_PAIRS) + 2.0 * (2 * truth - 1)
    margin[::11] = np.nan
    pairs = pl.DataFrame({"pair_id": ids, "margin": pl.Series(margin, nan_to_null=True)})
    pairs = pairs.with_columns(
        prob=1 / (1 + (-pl.col("margin")).exp()),
        prompt=pl.lit("p"),
        response_a=pl.lit("a"),
        response_b=pl.lit("b"),
    )
    return pairs, votes


def scores_of(pairs):
    """Scores of most pairs, whose DPO margin is a tenth of Σ of what is drawn."""
    rng = np.random.default_rng(1)
    some = pairs.filter(pl.int_range(pl.len()) % 7 != 0).sample(fraction=1, shuffle=True, seed=1)
    logps = ("policy_a_logps", "policy_b_logps", "ref_a_logps", "ref_b_logps")
    return some.select(
        "pair_id",
        *(pl.Series(name, rng.normal(-40, 20, len(some))) for name in logps),
        a_tokens=pl.lit(10),
        b_tokens=pl.lit(12),
    )


def compare(directory, out, scores=None, *, same_run=True, tolerance=1e-9, **options):
    """Both paths over the same directory, every column of every file within `tolerance`."""
    frame, provenance = join_scores(scores) if scores else (None, None)
    whole = em(read_dataset(directory), frame, scores_provenance=provenance, **options)
    write_em(whole, out / "whole")
    by_group = em_stream(directory, out / "stream", scores, in_memory=1, **options)
    one, other = read_em(out / "whole"), read_em(out / "stream")
    for name in ("confidences", "annotators", "trace"):
        left, right = getattr(one, name), getattr(other, name)
        exact = {"rel_tol": tolerance, "abs_tol": tolerance}
        if name == "trace":  # how the search went is not as well determined as where it ended
            left, right = (f.filter(pl.col("stage") != "calibrate").tail(1) for f in (left, right))
            left, right = (f.drop("iteration", "max_change") for f in (left, right))
            exact = {"rel_tol": 1e-8}
        assert_frame_equal(right, left, **exact)
    summaries = [dict(r.summary) for r in (one, other)]
    assert summaries[1]["notes"] == list(by_group.notes)
    for summary in summaries:
        summary.pop("iterations")
        if not same_run:
            summary.pop("run_id")
    assert summaries[1].keys() == summaries[0].keys()
    for key, value in summaries[0].items():
        expected = pytest.approx(value, rel=1e-6, abs=1e-4) if isinstance(value, float) else value
        assert summaries[1][key] == expected, key
    if same_run:
        assert (out / "whole" / "denoise.json").read_text() == (
            out / "stream" / "denoise.json"
        ).read_text()
    return by_group


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(stream_rows, "BATCH", 300)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("column", ["margin", "prob"])
def test_it_gives_what_em_gives_from_a_column_of_the_pairs(tmp_path, seed, column):
    directory = write(tmp_path / "data", *data(seed))
    result = compare(directory, tmp_path, threads=1, **{f"{column}_column": column})
    assert result.summary["n_repeated"] > 50 and result.summary["n_contradicted"] > 50
    assert result.summary["n_unscored"] > 50


@pytest.mark.parametrize("seed", [0, 1])
def test_it_gives_what_em_gives_from_votes_alone(tmp_path, seed):
    """A learned prior without margins feels the order in which the pairs are summed: up to 1e-8.

    The two paths sum them in different orders, so only a given prior is held to 1e-9.
    """
    directory = write(tmp_path / "data", *data(seed))
    compare(directory, tmp_path, threads=1, prior=(8.0, 2.0))
    compare(directory, tmp_path, threads=1, tolerance=1e-7)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "simpo", "cpo"])
def test_it_gives_what_em_gives_from_scores(tmp_path, loss):
    pairs, votes = data(2)
    directory = write(tmp_path / "data", pairs, votes)
    scores_of(pairs).write_parquet(tmp_path / "scores.parquet", row_group_size=100)
    compare(directory, tmp_path, tmp_path / "scores.parquet", loss=loss, threads=1)


def test_votes_of_all_are_several_peoples(tmp_path):
    directory = write(tmp_path / "data", *data(3, shared=0.3))
    compare(directory, tmp_path, margin_column="margin", threads=1)


def test_one_vote_a_pair(tmp_path):
    pairs, votes = data(4)
    votes = votes.unique("pair_id", keep="first", maintain_order=True)
    directory = write(tmp_path / "data", pairs, votes)
    compare(directory, tmp_path, margin_column="margin", threads=1)


def test_missing_columns_are_filled_in(tmp_path):
    """Without `vote_id` it is the row, without `annotator_id` everyone is `all`."""
    pairs, votes = data(5)
    directory = write(tmp_path / "data", pairs, votes.select("pair_id", "vote"))
    compare(directory, tmp_path, margin_column="margin", threads=1)


def test_the_order_of_vote_ids_does_not_matter_but_for_the_run_id(tmp_path):
    directory = write(tmp_path / "data", *data(6, increasing=False))
    compare(directory, tmp_path, margin_column="margin", same_run=False, threads=1)


def test_known_answers_and_provenance(tmp_path):
    pairs, votes = data(7)
    made = Provenance("import", {"source": "s"}, {"first": "a"})
    directory = write(tmp_path / "data", pairs, votes, provenance=made)
    truth = pl.DataFrame({"pair_id": pairs["pair_id"][:60], "vote": ["a", "b", "tie"] * 20})
    result = compare(directory, tmp_path, truth=truth, prior=(8.0, 2.0), threads=1)
    assert result.summary["n_known"] == 40 - sum(
        1 for i in range(60) if i % 3 < 2 and pairs["pair_id"][i] not in set(votes["pair_id"])
    )
    named = truth.rename({"pair_id": "comparison_id", "vote": "winner"})
    compare(directory, tmp_path / "named", truth=named, prior=(8.0, 2.0), threads=1)
    with pytest.raises(InputError, match="1 known answer"):
        other = pl.DataFrame({"pair_id": ["no such"], "vote": ["a"]})
        em_stream(directory, tmp_path / "no", truth=other)


def test_rows_in_a_file_threads_and_batches_change_nothing(tmp_path, monkeypatch):
    pairs, votes = data(8, n_votes=60_000)
    directory = write(tmp_path / "data", pairs, votes, row_group=7_000)
    outs = []
    for i, (in_memory, threads, batch) in enumerate([(1 << 30, 1, 9_999), (0, 2, 50_000)]):
        monkeypatch.setattr(stream_rows, "BATCH", batch)
        outs.append(tmp_path / f"out{i}")
        options = {"margin_column": "margin", "threads": threads}
        em_stream(directory, outs[-1], in_memory=in_memory, **options)
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "data",
            *(out.name for out in outs),
        ]
    one, other = (read_em(out) for out in outs)
    assert_frame_equal(one.confidences, other.confidences, abs_tol=1e-9)
    assert_frame_equal(one.annotators, other.annotators, abs_tol=1e-9)
    assert one.provenance.run_id == other.provenance.run_id


def test_whole_numbers_as_ids_are_as_good_as_text(tmp_path):
    pairs, votes = data(9)
    as_text = write(tmp_path / "text", pairs, votes)
    number = {"pair_id": pl.col("pair_id").str.slice(1).cast(pl.Int64) * 1_000_003 - 7}
    who = pl.col("annotator_id").str.slice(4).cast(pl.Int32) + 10
    as_numbers = write(
        tmp_path / "numbers",
        pairs.with_columns(**number),
        votes.with_columns(annotator_id=who, **number),
    )
    known = pl.DataFrame({"pair_id": pairs["pair_id"][:9], "vote": ["a"] * 9})
    given = {as_text: known, as_numbers: known.with_columns(**number)}
    for (directory, truth), out in zip(given.items(), "ab", strict=True):
        em_stream(directory, tmp_path / out, truth=truth, margin_column="margin", threads=1)
    one, other = (pl.read_parquet(tmp_path / out / "confidences.parquet") for out in "ab")
    one = one.with_columns(**number, annotator_id=who.cast(pl.String))
    assert_frame_equal(one, other, abs_tol=1e-9)


def test_ids_above_the_signed_numbers_are_ids(tmp_path):
    """As `hash` gives them."""
    pairs, votes = data(9)
    number = {"pair_id": pl.col("pair_id").hash(1)}
    directory = write(tmp_path / "data", pairs.with_columns(**number), votes.with_columns(**number))
    known = pl.DataFrame({"pair_id": pairs["pair_id"][:20], "vote": ["a"] * 20})
    known = known.with_columns(**number)
    assert known["pair_id"].dtype == pl.UInt64 and known["pair_id"].max() >= 2**63
    result = compare(directory, tmp_path, truth=known, margin_column="margin", threads=1)
    assert result.summary["n_known"] == len(set(pairs["pair_id"][:20]) & set(votes["pair_id"]))


def refused(directory, out, scores=None, **options):
    with pytest.raises(InputError) as error:
        em_stream(directory, out / "out", scores, **options)
    assert not (out / "out").exists()
    return str(error.value)


def changed(frame, row, **values):
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(
        pl.when(here).then(pl.lit(v)).otherwise(pl.col(n)).alias(n) for n, v in values.items()
    )


def test_wrong_votes_are_refused_with_row_and_value(tmp_path):
    pairs, votes = data(10)
    cases = {
        "row 700, column 'pair_id': 1 vote(s) on pairs that the pairs table does not have, "
        "found 'nowhere'": changed(votes, 700, pair_id="nowhere"),
        "row 701, column 'vote': unknown vote, found 'c'": changed(votes, 701, vote="c"),
        "row 702, column 'annotator_id': an empty value": changed(votes, 702, annotator_id=None),
        "row 703: 1 repeated vote_id, found '0'": changed(votes, 703, vote_id=0),
        "lacks the column 'vote'": votes.drop("vote"),
        "wrong type": votes.with_columns(vote_id=pl.col("vote_id").cast(pl.String)),
        "another type of id than the pairs have": votes.with_columns(pair_id=pl.lit(3)),
        "the votes table has no rows": votes.clear(),
        "nothing to learn from: all are ties": votes.with_columns(vote=pl.lit("tie")),
        "votes of different strength": votes.with_columns(
            strength=pl.when(pl.col("vote") == "a").then(pl.lit("slightly")).otherwise(None)
        ),
    }
    for message, wrong in cases.items():
        assert message in refused(write(tmp_path / "data", pairs, wrong), tmp_path)


def test_wrong_pairs_and_scores_are_refused_with_row_and_value(tmp_path):
    pairs, votes = data(11)
    first = pairs["pair_id"][3]
    message = f"row 390: 1 repeated pair_id, found '{first}'"
    twice = changed(pairs, 390, pair_id=first)
    assert message in refused(write(tmp_path / "data", twice, votes), tmp_path)
    directory = write(tmp_path / "data", pairs, votes)
    scores = scores_of(pairs)
    again = scores["pair_id"][5]
    cases = {
        "row 310, column 'pair_id': a score of a pair that": changed(scores, 310, pair_id="x"),
        f"row 311, column 'pair_id': a pair is scored again, found '{again}'": changed(
            scores, 311, pair_id=again
        ),
        "row 312, column 'policy_a_logps': 1 value(s) that are not finite": changed(
            scores, 312, policy_a_logps=float("nan")
        ),
        "row 313, column 'ref_a_logps': the loss dpo needs reference": changed(
            scores, 313, ref_a_logps=None
        ),
    }
    for message, wrong in cases.items():
        wrong.write_parquet(tmp_path / "scores.parquet")
        assert message in refused(directory, tmp_path, tmp_path / "scores.parquet")
    assert "have this column" in refused(directory, tmp_path, margin_column="other")
    assert "give only one" in refused(
        directory, tmp_path, tmp_path / "scores.parquet", margin_column="margin"
    )


def test_what_it_cannot_do_is_said_and_left_to_the_other_path(tmp_path, monkeypatch):
    pairs, votes = data(12, n_votes=200)
    directory = write(tmp_path / "data", pairs, votes.with_columns(mine=pl.lit(0.5)))
    auto = stage.EMSettings()
    assert not stream.suits(directory, auto)
    monkeypatch.setattr(stream, "LARGE", 100)
    assert stream.suits(directory, auto)
    assert not stream.suits(directory, stage.EMSettings(mode="paper"))
    assert not stream.suits(directory, stage.EMSettings(margin_column="mine"))
    assert not stream.suits(tmp_path / "votes.csv", auto)
    assert "only auto mode" in refused(directory, tmp_path, mode="paper")


def test_two_ids_with_one_hash_are_told_apart(tmp_path, monkeypatch):
    """With the first seed every hash is one of 64 values: the next seed is taken."""
    pairs, votes = data(13, n_votes=300)
    directory = write(tmp_path / "data", pairs, votes)
    keys = stream_rows._keys
    monkeypatch.setattr(
        stream_rows, "_keys", lambda c, seed: keys(c, seed) >> np.uint64(58 if seed == 0 else 0)
    )
    assert stream_rows.read_pairs(directory / "pairs.parquet").seed == 1


def test_killed_while_it_writes_it_leaves_no_half_result(tmp_path):
    """The process kills itself after a batch of rows; the next run replaces what is left."""
    directory = write(tmp_path / "data", *data(14))
    program = (
        "import os, signal, sys\n"
        "from denoise.pooled import index\n"
        "from denoise.stages import stream\n"
        "from denoise.stages.stream import rows as stream_rows\n"
        "stream_rows.BATCH = 300\n"
        "done, rows = [], stream.of_rows\n"
        "def columns(*args):\n"
        "    done.append(1)\n"
        "    len(done) < 5 or os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rows(*args)\n"
        "stream.of_rows = columns\n"
        "stream.em_stream(sys.argv[1], stream.Path(sys.argv[2]), in_memory=0, threads=1)\n"
    )
    out = tmp_path / "out"
    words = [sys.executable, "-c", program, str(directory), str(out)]
    ended = subprocess.run(words, env={**os.environ}, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not out.exists()
    assert {p.name for p in tmp_path.iterdir()} == {"data", ".out.new", ".out.lock"}
    em_stream(directory, out, threads=1)
    assert {p.name for p in tmp_path.iterdir()} == {"data", "out"}
    assert len(read_em(out).confidences) == 2_500


def test_votes_that_are_replaced_while_they_are_read_are_no_result(tmp_path):
    pairs, votes = data(16)
    directory = write(tmp_path / "data", pairs, votes)

    def replaced(step):
        if step == "write":
            write(tmp_path / "others", pairs, votes.reverse())
            (tmp_path / "others" / "votes.parquet").replace(directory / "votes.parquet")

    with pytest.raises(InputError, match="was replaced while it was read"):
        em_stream(directory, tmp_path / "out", threads=1, on_step=replaced)
    assert not (tmp_path / "out").exists()
    em_stream(directory, tmp_path / "out", threads=1)
    kept = read_em(tmp_path / "out").confidences
    assert kept["vote_id"].to_list() == votes["vote_id"].reverse().to_list()


def test_the_command_takes_either_path(tmp_path, capsys, monkeypatch):
    from denoise.cli import main

    directory = write(tmp_path / "data", *data(15))
    monkeypatch.chdir(tmp_path)
    for way in ("--stream", "--no-stream"):
        words = ["em", str(directory), "--margin", "margin", way, "--out", way.strip("-")]
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code
    assert "Least reliable of 12 annotators" in capsys.readouterr().out
    one, other = (json.loads(Path(o, "summary.json").read_text()) for o in ("stream", "no-stream"))
    assert one["notes"] == other["notes"]
    assert one["run_id"] == other["run_id"]
