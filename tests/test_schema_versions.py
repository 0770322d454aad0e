"""Tables that earlier releases wrote are read by this one: one folder a schema, never rewritten."""

from pathlib import Path

import polars as pl
import pytest

from denoise import schema, tables
from denoise.dataset import read_dataset
from denoise.stages.em import em, join_scores, read_em
from denoise.stages.export import export
from denoise.stages.labels import em_labels

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = range(1, schema.VERSION + 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_tables_of_every_schema_are_read_and_used(version):
    folder = FIXTURES / f"schema-{version}"
    data = read_dataset(folder / "pairs")
    scores, made = join_scores(folder / "scores.parquet")
    assert made is not None and made.made_by == "score"
    earlier = read_em(folder / "em")
    again = em(data, scores, scores_provenance=made)
    both = earlier.annotators.join(again.annotators, on="annotator_id", validate="1:1")
    assert len(both) == 5
    assert (both["reliability"] - both["reliability_right"]).abs().max() < 0.05
    assert len(export(data, earlier).frame) == 20
    labels = em_labels(read_dataset(folder / "labels"))
    assert len(labels.items) == 12


def test_tables_written_now_say_their_schema(tmp_path):
    path = tmp_path / "x.parquet"
    tables.write_table(pl.DataFrame({"a": [1]}), path, tables.Provenance("import"))
    said = pl.read_parquet_metadata(path)
    assert said[tables.SCHEMA_KEY] == str(schema.VERSION)


def test_there_is_a_fixture_for_this_schema():
    assert (FIXTURES / f"schema-{schema.VERSION}" / "pairs").is_dir()
