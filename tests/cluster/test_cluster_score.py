"""Scores of three Ray nodes against those of one machine: the same numbers, and no node needed."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from denoise.cluster import Workers
from denoise.dataset import Dataset
from denoise.errors import InputError, RunError
from denoise.scorers import cluster
from denoise.scorers.settings import ScoreSettings
from denoise.stages.score import score
from denoise.tables import Provenance


@pytest.fixture(scope="module")
def pairs():
    """Pairs of many lengths."""
    rng = np.random.default_rng(0)

    def text(words):
        return " ".join(rng.choice(["good", "bad", "red", "dog", "sky"], words))

    rows = [(f"p{i}", text(i % 9 + 1), text(i % 13 + 1), text(i % 5 + 1)) for i in range(60)]
    frame = pl.DataFrame(
        rows, schema=["pair_id", "prompt", "response_a", "response_b"], orient="row"
    )
    votes = pl.DataFrame({"vote_id": [0], "pair_id": ["p0"], "annotator_id": ["x"], "vote": ["a"]})
    return Dataset(Provenance("import"), pairs=frame, votes=votes)


@pytest.fixture
def one_thread():
    """What a worker of one core has: with another number of threads torch rounds differently."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def workers(nodes, **options):
    return Workers(nodes.address, **options)


@pytest.mark.parametrize("backend", ["transformers", "reward-transformers"])
def test_three_nodes_give_the_very_scores_of_one_machine(
    backend, pairs, nodes, policy_dir, reference_dir, reward_dir, one_thread
):
    is_reward = backend.startswith("reward")
    models = {"policy": str(reward_dir if is_reward else policy_dir)}
    models |= {} if is_reward else {"reference": str(reference_dir)}
    options = {"backend": backend, "batch_tokens": 64, **models}
    one = score(pairs, **options)
    three = score(pairs, cluster=workers(nodes), **options)
    assert_frame_equal(three.scores, one.scores, check_exact=True)
    assert three.provenance == one.provenance


def test_vllm_on_the_nodes(pairs, nodes, policy_dir):
    some = Dataset(pairs.provenance, pairs=pairs.pairs.head(12), votes=pairs.votes)
    options = {"backend": "vllm", "policy": str(policy_dir), "gpu_memory_utilization": 0.1}
    one = score(some, **options)
    three = score(some, cluster=workers(nodes, count=1), **options)
    for name in ("policy_a_logps", "policy_b_logps"):
        off = (three.scores[name] - one.scores[name]).abs().max()
        assert off < 1e-3, "batches are vLLM's own, and so is their rounding"


def test_a_killed_node_costs_time_only(pairs, nodes, policy_dir, monkeypatch, tmp_path, one_thread):
    options = {"backend": "transformers", "batch_tokens": 16, "policy": str(policy_dir)}
    one = score(pairs, **options)
    scored = cluster.ClusterScorer.score

    def killing(self, *args):
        for number, finished in enumerate(scored(self, *args)):
            if number == 2:
                nodes.kill()
            yield finished

    monkeypatch.setattr(cluster.ClusterScorer, "score", killing)
    three = score(pairs, cluster=workers(nodes), work=tmp_path / "work", **options)
    assert len(nodes.workers) == 1
    assert_frame_equal(three.scores, one.scores, check_exact=True)


def test_a_model_that_differs_on_a_node_is_refused(pairs, nodes, policy_dir, reference_dir):
    from dataclasses import replace

    from denoise.scorers.models import resolve

    source = replace(resolve(str(policy_dir)), identity="another")
    with pytest.raises(RunError, match="is not the model that the command was given"):
        cluster._open(source, ScoreSettings(), "policy")


def test_what_the_cluster_has_not_is_refused(pairs, nodes, policy_dir):
    with pytest.raises(RunError, match="no node of the cluster has the 1 cores and 3 GPUs"):
        score(pairs, policy=str(policy_dir), cluster=workers(nodes, gpus=3))
    with pytest.raises(RunError, match="the 64 cores"):
        score(pairs, policy=str(policy_dir), cluster=workers(nodes, cpus=64))
    with pytest.raises(InputError, match="--workers must be at least 1"):
        Workers(count=0)


def test_what_goes_wrong_on_a_worker_is_told_as_it_is_here(pairs, nodes, policy_dir, monkeypatch):
    """A token id outside the vocabulary: the worker's own InputError arrives."""
    long = [cluster.TokenPair([999_999], [1, 2], [3])]
    monkeypatch.setattr(cluster, "summary", lambda pairs: long)
    with pytest.raises(InputError, match="vocabulary"):
        score(pairs, policy=str(policy_dir), backend="transformers", cluster=workers(nodes))
