"""EM over categorical labels: what it writes, what it refuses, and what it must not depend on."""

import numpy as np
import polars as pl
import pytest

from denoise import schema
from denoise.cli import main
from denoise.dataset import Dataset
from denoise.errors import InputError
from denoise.stages.labels import CHOICES, em_labels, write_labels
from denoise.tables import Provenance

CLASSES = ["cat", "dog", "owl"]


def planted(n_items=300, n_annotators=12, each=5, seed=0):
    """Labels of annotators who are right with probability 0.5 to 0.95, and the truth."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 3, n_items)
    skill = np.linspace(0.5, 0.95, n_annotators)
    rows = []
    for item in range(n_items):
        for who in generator.permutation(n_annotators)[:each]:
            right = generator.random() < skill[who]
            label = truth[item] if right else (truth[item] + generator.integers(1, 3)) % 3
            rows.append((f"i{item:03d}", f"w{who:02d}", CLASSES[label]))
    names = ["item_id", "annotator_id", "label"]
    return pl.DataFrame(rows, schema=names, orient="row"), [CLASSES[t] for t in truth], skill


def data(labels):
    return Dataset(Provenance("import", {"source": "test"}), labels=labels)


@pytest.mark.parametrize("model", CHOICES)
def test_every_model_finds_most_items_and_ranks_the_annotators(model):
    labels, truth, skill = planted()
    result = em_labels(data(labels), model=model)
    assert (result.items["label"] == pl.Series(truth)).mean() > 0.85
    assert np.corrcoef(result.annotators["reliability"], skill)[0, 1] > 0.85
    posterior = result.items.select(f"posterior_{c}" for c in CLASSES).to_numpy()
    np.testing.assert_allclose(posterior.sum(1), 1)
    np.testing.assert_allclose(result.items["confidence"], posterior.max(1))
    rows = result.confusions.group_by("annotator_id", "true_label").agg(pl.col("probability").sum())
    np.testing.assert_allclose(rows["probability"], 1)
    assert len(result.confusions) == 12 * 9
    assert not schema.faults(result.annotators, schema.ANNOTATORS, "annotators")


def test_the_models_beat_majority_vote_where_skill_differs():
    labels, truth, _ = planted(seed=3)
    right = {
        model: (em_labels(data(labels), model=model).items["label"] == pl.Series(truth)).mean()
        for model in ("majority", "auto")
    }
    assert right["auto"] > right["majority"]


def test_order_of_the_rows_and_names_do_not_matter():
    labels, _, _ = planted(n_items=60)
    one = em_labels(data(labels))
    shuffled = labels.sample(fraction=1, shuffle=True, seed=1)
    assert em_labels(data(shuffled)).items.equals(one.items)
    names = {f"w{k:02d}": f"x{(7 * k) % 12:02d}" for k in range(12)}
    renamed = em_labels(data(labels.with_columns(pl.col("annotator_id").replace_strict(names))))
    np.testing.assert_allclose(renamed.items["confidence"], one.items["confidence"], atol=1e-9)


def test_repeats_count_once_and_contradictions_not_at_all():
    labels, _, _ = planted(n_items=40)
    more = pl.concat([labels, labels.head(1)])
    one, two = em_labels(data(labels)), em_labels(data(more))
    assert two.items.equals(one.items) and two.summary["n_not_counted"] == 1
    other = labels.head(1).with_columns(
        label=pl.when(pl.col("label") == "cat").then(pl.lit("dog")).otherwise(pl.lit("cat"))
    )
    torn = em_labels(data(pl.concat([labels, other])))
    assert torn.items.equals(em_labels(data(labels.slice(1))).items)
    assert torn.summary["n_not_counted"] == 2


def test_labels_of_whom_nobody_named_all_count():
    labels, truth, _ = planted(n_items=60)
    labels = labels.with_columns(annotator_id=pl.lit("all"))
    result = em_labels(data(labels))
    assert result.summary["n_not_counted"] == 0
    right = [
        truth[int(name[1:])] == label for name, label in result.items["item_id", "label"].rows()
    ]
    wrong = result.summary["expected_wrong_items"]
    assert abs(wrong - right.count(False)) < 0.2 * len(right)
    most = labels.group_by("item_id").agg(pl.col("label").mode().len() == 1)
    led = most.filter("label")["item_id"]
    majority = em_labels(data(labels), model="majority").items
    same = result.items["label"] == majority["label"]
    assert same.filter(result.items["item_id"].is_in(led.implode())).all()


def test_known_answers_are_fixed():
    labels, _, _ = planted(n_items=50)
    truth = pl.DataFrame({"item_id": ["i000", "i001"], "label": ["owl", "emu"]})
    result = em_labels(data(labels), truth=truth)
    first = result.items.head(2)
    assert first["label"].to_list() == ["owl", "emu"]
    assert first["confidence"].to_list() == [1.0, 1.0]
    assert "posterior_emu" in result.items.columns
    with pytest.raises(InputError, match="do not have"):
        em_labels(data(labels), truth=pl.DataFrame({"item_id": ["z"], "label": ["owl"]}))


def test_an_items_own_prior_is_used():
    labels, truth, _ = planted(n_items=100, each=1)
    sure = {
        f"prior_{c}": [0.9 if truth[int(i[1:])] == c else 0.05 for i in labels["item_id"]]
        for c in CLASSES
    }
    found = em_labels(data(labels.with_columns(**{n: pl.Series(v) for n, v in sure.items()})))
    assert (found.items["label"] == pl.Series(truth)).mean() > 0.9
    with pytest.raises(InputError, match="some classes have a prior"):
        em_labels(data(labels.with_columns(prior_cat=0.5)))
    wrong = {f"prior_{c}": pl.lit(0.0) for c in CLASSES}
    with pytest.raises(InputError, match="not one of probabilities"):
        em_labels(data(labels.with_columns(**wrong)))


def test_a_column_that_only_begins_like_a_prior_is_none_and_is_told():
    labels, _, _ = planted(n_items=50)
    plain, named = (em_labels(data(t)) for t in (labels, labels.with_columns(prior_experience=3)))
    assert named.items.equals(plain.items)
    assert named.notes == (
        *plain.notes,
        "not used, as no class is called so after 'prior_': prior_experience",
    )
    sure = {f"prior_{c}": pl.lit(1 / 3) for c in CLASSES}
    both = em_labels(data(labels.with_columns(**sure, prior_experience=pl.lit("years"))))
    assert both.notes[-1] == named.notes[-1]
    sure["prior_owls"] = sure.pop("prior_owl")
    with pytest.raises(InputError, match="others have none: prior_owl;"):
        em_labels(data(labels.with_columns(**sure)))


def test_unknown_models_are_refused():
    with pytest.raises(InputError, match="unknown model"):
        em_labels(data(planted(n_items=5)[0]), model="best")


def test_the_command_writes_the_tables_and_prints_the_baseline(tmp_path, capsys):
    labels, _, _ = planted(n_items=60)
    labels.write_csv(tmp_path / "labels.csv")
    with pytest.raises(SystemExit) as done:
        main(["em", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "out")])
    assert done.value.code == 0
    said = capsys.readouterr().out
    assert "Held-out votes" in said and "than by majority vote" in said
    assert {p.stem for p in (tmp_path / "out").glob("*.parquet")} == {
        *("items", "annotators", "confusions", "trace")
    }
    for name in ("one", "two"):
        write_labels(em_labels(data(labels)), tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
