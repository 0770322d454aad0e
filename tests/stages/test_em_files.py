"""What EM writes and reads again, and the scores it joins."""

import json
from functools import partial

import pytest
from em_cases import MARGINS, planted, score_table

from denoise import tables
from denoise.errors import InputError
from denoise.stages import em as stage
from denoise.stages.em import join_scores, read_em, write_em
from denoise.tables import Provenance

em = partial(stage.em, mode="paper")


def test_written_and_read_again_and_equal_runs_give_equal_files(tmp_path):
    data, scores, _ = planted(300)
    one = em(data, scores)
    write_em(one, tmp_path / "one")
    write_em(em(data, scores), tmp_path / "two")
    assert tables.file_hash(tmp_path / "one") == tables.file_hash(tmp_path / "two")
    back = read_em(tmp_path / "one")
    for name in ("confidences", "annotators", "trace"):
        assert getattr(back, name).equals(getattr(one, name))
    assert (back.provenance, back.notes) == (one.provenance, one.notes)
    assert back.summary == json.loads(json.dumps(one.summary))
    other = em(data, scores, beta=0.2)
    assert other.provenance.run_id != one.provenance.run_id
    reversed_scores = score_table([-m for m in scores["policy_a_logps"].to_list()])
    assert em(data, reversed_scores).provenance.run_id != one.provenance.run_id


def test_tables_of_two_runs_and_cut_files_are_refused(tmp_path):
    data, scores, _ = planted(300)
    write_em(em(data, scores), tmp_path / "one")
    write_em(em(data, scores, beta=0.2), tmp_path / "two")
    (tmp_path / "two" / "trace.parquet").replace(tmp_path / "one" / "trace.parquet")
    with pytest.raises(InputError, match="made by run"):
        read_em(tmp_path / "one")
    with pytest.raises(InputError, match="no such file"):
        read_em(tmp_path / "two")
    whole = (tmp_path / "one" / "annotators.parquet").read_bytes()
    (tmp_path / "one" / "annotators.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"annotators\.parquet.*not a whole Parquet file"):
        read_em(tmp_path / "one")


def shards(directory, count=4, **settings):
    """The files of `score --shard i/count` on 8 pairs, and the whole they are cut from."""
    whole = score_table([float(i) for i in range(8)])
    files = []
    for i in range(count):
        files.append(directory / f"scores-{i:05d}-of-{count:05d}.parquet")
        made = Provenance("score", {"pairs": "x"}, {"shard": [i, count], **settings})
        tables.write_table(whole.gather_every(count, offset=i), files[-1], made)
    return whole, files


def test_shards_are_joined_by_list_or_by_the_name_of_the_whole(tmp_path):
    whole, files = shards(tmp_path)
    for given_paths in (files[::-1], tmp_path / "scores.parquet", [tmp_path / "scores.parquet"]):
        joined, made = join_scores(given_paths)
        assert joined.sort("pair_id").equals(whole)
        assert made == Provenance("score", {"pairs": "x"}, {"shard": None})


def test_one_file_with_and_without_provenance(tmp_path):
    whole = score_table(MARGINS)
    made = Provenance("score", {"pairs": "x"}, {"shard": None})
    tables.write_table(whole, tmp_path / "ours.parquet", made)
    whole.write_parquet(tmp_path / "own.parquet")
    assert join_scores(tmp_path / "ours.parquet")[1] == made
    joined, nothing = join_scores(tmp_path / "own.parquet")
    assert joined.equals(whole) and nothing is None


def test_shards_that_do_not_make_one_job_are_refused(tmp_path):
    _, files = shards(tmp_path / "one")
    _, others = shards(tmp_path / "two", dtype="bfloat16")
    _, halves = shards(tmp_path / "three", count=2)
    refused = {
        r"2 of the 4 shards of its job are missing: 1/4, 3/4": [files[0], files[2]],
        r"scores-00001.*the same shard as scores-00001": [*files[:2], files[1]],
        r"scores-00003.*another job than scores-00000.*other dtype": [*files[:3], others[3]],
        r"another job": [files[0], halves[1]],
        r"no such file": [tmp_path / "none.parquet"],
    }
    for said, given_paths in refused.items():
        with pytest.raises(InputError, match=said):
            join_scores(given_paths)
    score_table(MARGINS).write_parquet(tmp_path / "own.parquet")
    with pytest.raises(InputError, match=r"own\.parquet: says not what made it"):
        join_scores([*files, tmp_path / "own.parquet"])


def test_a_pair_scored_twice_is_refused_with_both_files(tmp_path):
    for name in ("one", "two"):
        score_table(MARGINS).write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"two\.parquet.*in one\.parquet too, found 'p0'"):
        join_scores([tmp_path / "one.parquet", tmp_path / "two.parquet"])
