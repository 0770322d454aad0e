"""EM over rewards: their difference is the margin, in memory and by row group alike."""

import numpy as np
import polars as pl
import pytest
from em_cases import MARGINS, VOTES, dataset, planted, score_table
from polars.testing import assert_frame_equal

from denoise import noise, tables
from denoise.dataset import write_dataset
from denoise.errors import InputError
from denoise.stages.em import em, join_scores, read_em, write_em
from denoise.stages.stream import em_stream
from denoise.tables import Provenance


def reward_table(margins, seed=0):
    """Rewards whose difference is as given, on top of what the prompt is worth."""
    level = np.random.default_rng(seed).normal(0, 5, len(margins))
    return pl.DataFrame(
        {
            "pair_id": [f"p{i}" for i in range(len(margins))],
            "a_reward": level + np.array(margins),
            "b_reward": level,
            "a_tokens": 14,
            "b_tokens": 15,
        }
    )


def test_the_margin_along_a_vote_is_the_difference_of_rewards():
    """Bradley–Terry by hand: r(a) − r(b) for a vote a, its negative for b, null for a tie."""
    data = dataset(VOTES)
    shown = em(data, reward_table(MARGINS), mode="paper", eta0=0.8).confidences
    along = {"a": 1.0, "b": -1.0}
    expected = [along[v] * MARGINS[n] if v != "tie" else None for n, _, v in VOTES]
    assert shown["margin"].to_list() == pytest.approx(expected, abs=1e-12)
    prob = [None if m is None else noise.sigmoid(np.float64(m)) for m in expected]
    assert shown["prob"].to_list() == pytest.approx(prob)


@pytest.mark.parametrize("mode", ["auto", "paper"])
def test_rewards_give_what_log_probs_of_the_same_margin_give(mode):
    data, scores, _ = planted(2000)
    rewards = reward_table((0.1 * scores["policy_a_logps"]).to_list())
    by_rewards, by_logps = em(data, rewards, mode=mode), em(data, scores, mode=mode)
    assert_frame_equal(by_rewards.confidences, by_logps.confidences, abs_tol=1e-6)
    assert_frame_equal(by_rewards.annotators, by_logps.annotators, abs_tol=1e-6)
    said = by_rewards.provenance.settings
    assert said["evidence"] == "rewards" and not {"loss", "beta"} & said.keys()
    assert by_logps.provenance.settings["loss"] == "dpo"


def test_no_loss_and_the_loss_dpo_are_one_run_of_log_probs():
    data, scores, _ = planted(300)
    one, other = (em(data, scores, **how) for how in ({}, {"loss": "dpo"}))
    assert one.provenance == other.provenance


@pytest.mark.parametrize("options", [{}, {"row_group_size": 100}], ids=["whole", "row groups"])
@pytest.mark.parametrize("made", [None, Provenance("score", {}, {"tokenize": "reward"})])
def test_both_paths_give_the_same_tables(tmp_path, options, made):
    data, scores, _ = planted(2000)
    write_dataset(data, tmp_path / "data")
    rewards = reward_table((0.1 * scores["policy_a_logps"]).to_list()).sample(
        fraction=0.9, shuffle=True, seed=3
    )
    metadata = {tables.METADATA_KEY: made.to_json()} if made else None
    path = tmp_path / "scores.parquet"
    rewards.write_parquet(path, metadata=metadata, **options)
    frame, provenance = join_scores(path)
    write_em(em(data, frame, scores_provenance=provenance), tmp_path / "whole")
    em_stream(tmp_path / "data", tmp_path / "stream", path)
    whole, stream = read_em(tmp_path / "whole"), read_em(tmp_path / "stream")
    assert_frame_equal(whole.confidences, stream.confidences, abs_tol=1e-6)
    assert_frame_equal(whole.annotators, stream.annotators, abs_tol=1e-6)
    assert whole.summary["n_unscored"] > 0
    assert whole.provenance == stream.provenance


@pytest.mark.parametrize(
    "option", [{"loss": "dpo"}, {"beta": 0.2}, {"gamma": 0.5}, {"ipo_sum": True}]
)
def test_what_means_nothing_to_rewards_is_refused_by_both_paths(tmp_path, option):
    data = dataset(VOTES)
    message = f"{next(iter(option))} means nothing to rewards"
    with pytest.raises(InputError, match=message):
        em(data, reward_table(MARGINS), **option)
    write_dataset(data, tmp_path / "data")
    reward_table(MARGINS).write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(InputError, match=message):
        em_stream(tmp_path / "data", tmp_path / "out", tmp_path / "scores.parquet", **option)


def test_wrong_rewards_are_refused_by_both_paths(tmp_path):
    data, whole = dataset(VOTES), reward_table(MARGINS)
    write_dataset(data, tmp_path / "data")
    path = tmp_path / "scores.parquet"
    nan = pl.when(pl.col("pair_id") == "p2").then(float("nan")).otherwise("b_reward")
    cases = {
        "the rewards table lacks the column 'b_reward'": whole.drop("b_reward"),
        "row 2, column 'b_reward': 1 value.s. that are not finite": whole.with_columns(
            b_reward=nan
        ),
        "of .*pairs? that the data do not have": whole.with_columns(
            pair_id=pl.col("pair_id").replace("p3", "p9")
        ),
    }
    for message, wrong in cases.items():
        wrong.write_parquet(path)
        with pytest.raises(InputError, match=message):
            em(data, join_scores(path)[0])
        with pytest.raises(InputError, match=message):
            em_stream(tmp_path / "data", tmp_path / "out", path)


def test_a_users_own_rewards_need_no_token_counts_and_log_probs_go_before_them(tmp_path):
    data = dataset(VOTES)
    path = tmp_path / "own.parquet"
    reward_table(MARGINS).drop("a_tokens", "b_tokens").write_parquet(path)
    assert em(data, join_scores(path)[0]).provenance.settings["evidence"] == "rewards"
    both = score_table(MARGINS).with_columns(a_reward=0.0, b_reward=1.0)
    assert em(data, both).provenance.settings["evidence"] == "scores"


def test_shards_are_joined_and_not_with_log_probs(tmp_path):
    whole = reward_table([float(i) for i in range(8)])
    files = [tmp_path / f"scores-{i:05d}-of-00002.parquet" for i in range(2)]
    for i, file in enumerate(files):
        made = Provenance("score", {"pairs": "x"}, {"shard": [i, 2]})
        tables.write_table(whole.gather_every(2, offset=i), file, made)
    joined, made = join_scores(tmp_path / "scores.parquet")
    assert joined.sort("pair_id").equals(whole)
    assert made == Provenance("score", {"pairs": "x"}, {"shard": None})
    score_table(MARGINS).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"other\.parquet.*lacks the column 'a_reward'"):
        join_scores([files[0], tmp_path / "other.parquet"])


def test_an_earlier_run_from_log_probs_is_not_joined():
    data, scores, _ = planted(300)
    earlier = em(data, scores)
    with pytest.raises(InputError, match="evidence scores and rewards"):
        em(data, reward_table([1.0] * 2500), init=earlier)
