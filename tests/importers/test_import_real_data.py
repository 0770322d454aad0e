"""The shared real datasets, from file to tables that keep their contracts."""

from __future__ import annotations

import polars as pl
import pytest

from denoise import schema
from denoise.importers import import_data
from denoise.importers.content import ASSISTANT


def test_hh_harmless_comes_back_whole_from_its_transcripts(shared_data, tmp_path):
    """The original form of hh-rlhf is two transcripts; the stored one has the prompt taken out."""
    stored = pl.read_parquet(shared_data / "hh_harmless_test" / "pairs.parquet")
    start = pl.col("prompt") + " "
    stored.select(
        chosen=start + pl.col("chosen"), rejected=start + pl.col("rejected")
    ).write_ndjson(tmp_path / "test.jsonl")
    data = import_data(tmp_path / "test.jsonl")
    assert len(data.votes) == len(stored) == 2312
    assert data.skipped.is_empty()
    votes = data.votes.join(data.pairs, on="pair_id", how="left", maintain_order="left")
    assert votes["prompt"].str.ends_with(ASSISTANT).all()
    is_a = pl.col("vote") == "a"
    chosen = votes.select(
        pl.col("prompt") + pl.when(is_a).then("response_a").otherwise("response_b").alias("chosen")
    ).to_series()
    assert chosen.equals(stored.select(start + pl.col("chosen")).to_series(), check_names=False)
    # The rule cuts where the stored prompts end, but for dialogues that say the word later on.
    assert (votes["prompt"] == stored["prompt"]).mean() > 0.99


def test_hh_harmless_with_its_prompt_column(shared_data):
    data = import_data(shared_data / "hh_harmless_test" / "pairs.parquet")
    assert (len(data.pairs), len(data.votes)) == (2312, 2312)
    assert 0.45 < (data.votes["vote"] == "a").mean() < 0.55


def test_llmfao_comparisons_keep_their_ties(shared_data):
    path = shared_data / "llmfao" / "comparisons.parquet"
    data, source = import_data(path), pl.read_parquet(path)
    assert len(data.votes) == 8931 and data.skipped.is_empty()
    assert len(data.pairs) == 2139
    assert (data.votes["vote"] == "tie").sum() == (source["winner"] == "tie").sum()
    votes = data.votes.join(data.pairs, on="pair_id", how="left", maintain_order="left")
    best = pl.when(pl.col("vote") == "a").then("response_a")
    best = best.when(pl.col("vote") == "b").then("response_b")
    expected = pl.when(pl.col("winner") == "left").then("left")
    expected = expected.when(pl.col("winner") == "right").then("right")
    assert (
        votes.select(best)
        .to_series()
        .equals(source.select(expected).to_series(), check_names=False, null_equal=True)
    )


@pytest.mark.parametrize(
    ("name", "labels"), [("bluebird", 4212), ("rte", 8000), ("adult", 92721), ("llmfao", 8931)]
)
def test_categorical_tables(shared_data, name, labels):
    data = import_data(shared_data / name / "labels.parquet")
    assert len(data.labels) == labels
    assert not schema.faults(data.labels, schema.LABELS, name)


def test_long_votes_of_llmfao_with_a_table_of_texts(shared_data):
    labels = pl.read_parquet(shared_data / "llmfao" / "labels.parquet")
    items = labels["item"].unique(maintain_order=True)
    texts = pl.DataFrame({"item": items}).with_columns(
        prompt=pl.col("item"), left=pl.col("item") + " 1", right=pl.col("item") + " 2"
    )
    data = import_data(labels, texts=texts)
    assert (len(data.pairs), len(data.votes)) == (2139, 8931)


@pytest.mark.parametrize("name", ["ukp_convarg", "pandalm", "poems", "llmbar_judges"])
def test_preference_texts(shared_data, name):
    path = shared_data / name / "pairs.parquet"
    data, rows = import_data(path), len(pl.read_parquet(path))
    assert len(data.votes) + len(data.skipped) == rows
    assert not schema.faults(data.pairs, schema.PAIRS, name)
    assert not schema.faults(data.votes, schema.VOTE_ROWS, name)
