"""The table of confidences, written row group by row group in the order of the votes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from denoise import parquet, tables
from denoise.noise import Floats
from denoise.places import Place
from denoise.pooled import index
from denoise.pooled.ballots import over
from denoise.pooled.index import Rows
from denoise.stages.stream.rows import batches
from denoise.stages.stream.votes import VOTES
from denoise.tables import Provenance


class Columns(NamedTuple):
    """What `of_rows` needs by pair, [J], and by annotator, [K]; see `index.row_pass`."""

    rank: NDArray[np.int32]
    truth: Floats
    known: NDArray[np.int8]
    contradicted: NDArray[np.int64]
    tau: float


def write_confidences(
    path: Place,
    votes: Place,
    values_of: Callable[[int, int], tuple[NDArray[np.generic], ...]],
    names: pl.Series,
    provenance: Provenance,
    done: Callable[[int], None],
) -> None:
    """Write the table `confidences` in the order of the votes, one batch a row group.

    `values_of` gives `of_rows` of so many rows from a first one on, in their order; `done` is told
    the rows of each batch.
    """
    there = parquet.columns_of(votes)
    named = [name for name in ("vote_id", "pair_id") if name in there.names]
    whole = pa.types.is_integer(there.field("pair_id").type)
    id_type = there.field("pair_id").type if whole else pa.large_string()
    vote_id_type = there.field("vote_id").type if "vote_id" in named else pa.int64()
    floats = ("margin", "prob", "confidence", "pair_posterior")
    shape = {"vote_id": vote_id_type, "pair_id": id_type}
    # Dictionaries are how they are handed over; without the schema they are read back as text.
    shape |= dict.fromkeys(("annotator_id", "vote"), pa.dictionary(pa.int32(), pa.large_string()))
    shape |= dict.fromkeys(floats, pa.float64())
    annotators = pa.array(names.to_list(), pa.large_string())
    sides = pa.array(list(VOTES), pa.large_string())
    with tables.atomic_path(path) as temporary:
        writer = pq.ParquetWriter(
            temporary,
            pa.schema(list(shape.items())),
            use_dictionary=["annotator_id", "vote"],
            column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
            | {"vote_id": "DELTA_BINARY_PACKED"},
            # Ids in digits are half air, numbers are not.
            compression={n: "snappy" if whole or n != "pair_id" else "zstd" for n in shape},
            write_statistics=["vote_id"],
            write_page_checksum=True,
            store_schema=False,
        )
        with writer, ThreadPoolExecutor(1) as pool:
            pending = None
            for first, batch in batches(votes, named):
                who, vote, *values = values_of(first, len(batch))
                ids = np.arange(first, first + len(batch))
                shown = annotators
                if len(annotators) > len(batch):  # each row group holds its whole dictionary
                    present, who = np.unique(who, return_inverse=True)
                    shown, who = annotators.take(pa.array(present)), who.astype(np.int32)
                table: Mapping[str, pa.Array] = {
                    "vote_id": batch.column("vote_id") if "vote_id" in named else pa.array(ids),
                    "pair_id": batch.column("pair_id").cast(id_type),
                    "annotator_id": pa.DictionaryArray.from_arrays(who, shown),
                    "vote": pa.DictionaryArray.from_arrays(vote, sides),
                }
                # NaN, which is no value, becomes null.
                table |= {
                    n: pa.array(v, from_pandas=True) for n, v in zip(floats, values, strict=True)
                }
                if pending is not None:
                    pending.result()
                made = pa.RecordBatch.from_arrays(list(table.values()), schema=writer.schema)
                pending = pool.submit(writer.write_batch, made)
                done(len(batch))
            if pending is not None:
                pending.result()
            writer.add_key_value_metadata(tables.metadata_of(provenance))


def of_rows(rows: Rows, given: Columns, threads: int) -> tuple[NDArray[np.generic], ...]:
    """Annotator, vote, margin, prob, confidence and pair_posterior of a batch, [n] each."""
    n = len(rows)
    out = (np.empty(n, np.int32), np.empty(n, np.int32), *(np.empty(n) for _ in range(4)))
    over(n, threads, lambda f, e: index.row_pass(f, e, rows, *given, *out))
    return out
