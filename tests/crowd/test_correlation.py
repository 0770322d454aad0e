"""Annotators who err together, planted and real."""

import numpy as np
import polars as pl
import pytest

from denoise.crowd.answers import answers
from denoise.crowd.correlation import dependence
from denoise.dataset import Dataset
from denoise.stages.labels import em_labels
from denoise.tables import Provenance


def crowd(seed, n_items=400, n_annotators=30, n_classes=2, clique=0):
    """Everyone labels every item; the last `clique` copy one annotator with 10 % noise."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, n_classes, n_items)
    skill = generator.uniform(0.6, 0.95, n_annotators)

    def noisy(label, right):
        other = (label + generator.integers(1, n_classes, n_items)) % n_classes
        return np.where(generator.random(n_items) < right, label, other)

    labels = np.stack([noisy(truth, each) for each in skill])
    copied = noisy(truth, 0.6)
    for k in range(n_annotators - clique, n_annotators):
        labels[k] = noisy(copied, 0.9)
    annotator, item = np.divmod(np.arange(labels.size), n_items)
    return item, annotator, labels.ravel(), truth


def planted_dependence(item, annotator, label, truth, n_classes=2):
    """With the truth and each annotator's own confusion known."""
    n_annotators = annotator.max() + 1
    votes = answers(item, annotator, label, len(truth), n_annotators, n_classes)
    confusion = np.full((n_annotators, n_classes, n_classes), 0.5)
    np.add.at(confusion, (annotator, truth[item], label), 1)
    confusion /= confusion.sum(2, keepdims=True)
    return dependence(votes, np.eye(n_classes)[truth], confusion)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_independent_annotators_are_rarely_called_dependent(n_classes):
    """435 pairs in each of 5 crowds; beyond 4 standard errors is chance 3e-5 a pair."""
    for seed in range(5):
        found = planted_dependence(*crowd(seed, n_classes=n_classes), n_classes)
        assert found.compared == 435
        assert found.dependent <= 3 and found.effective > 28


def test_a_clique_weighs_like_few():
    """20 of 30 copy one: all 190 pairs of them depend, and 30 weigh like about 13."""
    found = planted_dependence(*crowd(1, clique=20))
    assert 185 <= found.dependent <= 195
    assert found.effective < 15


def test_names_and_order_do_not_matter():
    item, annotator, label, truth = crowd(2, n_annotators=8, clique=3)
    one = planted_dependence(item, annotator, label, truth)
    generator = np.random.default_rng(0)
    order, names = generator.permutation(len(item)), generator.permutation(8)
    two = planted_dependence(item[order], names[annotator][order], label[order], truth)
    assert two.dependent == one.dependent
    assert two.effective == pytest.approx(one.effective, rel=1e-9)


def test_annotators_who_share_nothing_are_not_compared():
    votes = answers(np.arange(20), np.arange(20) % 2, np.zeros(20, int), 20, 2, 2)
    found = dependence(votes, np.full((20, 2), 0.5), np.full((2, 2, 2), 0.5))
    assert found == (0, 0, 2.0)


def test_the_judges_of_llmbar_are_said_to_be_correlated_and_not_taken_at_their_word(shared_data):
    """No worse than majority vote (0.5895), with a calibration error under 0.15 in 10 bins."""
    labels = pl.read_parquet(shared_data / "llmbar_judges" / "labels.parquet")
    names = {"item": "item_id", "annotator": "annotator_id"}
    data = Dataset(Provenance("import", {"source": "test"}), labels=labels.rename(names))
    result = em_labels(data)
    assert "the annotators err together" in " ".join(result.notes)
    assert result.summary["effective_annotators"] < 30
    truth = pl.read_parquet(shared_data / "llmbar_judges" / "truth.parquet")
    both = result.items.join(truth, left_on="item_id", right_on="item", suffix="_true")
    hit = (both["label"] == both["label_true"]).to_numpy()
    top = both["confidence"].to_numpy()
    gap = np.bincount(np.minimum((10 * top).astype(int), 9), hit - top, 10)
    assert hit.mean() >= 0.589
    assert np.abs(gap).sum() / len(hit) < 0.15
