"""What an export is written as: one entry a format, each with its writer and how to load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from denoise import tables
from denoise.errors import refuse
from denoise.places import Place, is_remote
from denoise.stages import trainers
from denoise.stages.trainers import Made, Training

MAX_SHARD_BYTES = 500_000_000
MAX_SHARD_ROWS = 200_000

# What DPOTrainer reads besides the weight. The last two change how the prompt is rendered, so a
# source that has them must keep them.
_TRL = (
    *("prompt", "chosen", "rejected", "weight", "row_weight", "reward_margin"),
    *("tools", "chat_template_kwargs"),
)


@dataclass(frozen=True)
class Format:
    """One way to write an export.

    `data_files` is what a loader reads, in the directory; `write` puts a frame there, or raises an
    `InputError` where the format cannot hold it; `columns` are those of a frame that it keeps.
    use: what to do with it, where it is for another trainer, which has its own names for the texts
    and reads no soft labels. losses: those of ours that it has.
    """

    name: str
    data_files: str
    write: Callable[[pl.DataFrame, Path, Made], None]
    columns: Callable[[pl.DataFrame], list[str]]
    use: str | None = None
    losses: tuple[str, ...] = ()

    @property
    def default_strategy(self) -> str:
        """What becomes of the soft labels where nothing is said: `strategies.STRATEGIES`."""
        return "sample" if self.use else "weight"

    def check(self, strategy: str) -> None:
        """Refuse rows whose weights the trainer would not read.

        Raises:
            InputError: the strategy leaves weights beside the rows, and the format is a trainer's.
        """
        if self.use and strategy in ("weight", "duplicate"):
            refuse(
                f"{self.name} reads no weights, and would take every label as right",
                found=f"--strategy {strategy}",
                fix="give --strategy sample, flip or filter, or train with `denoise train`",
            )


def find(name: str) -> Format:
    """The format of a name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in FORMATS:
        refuse("there is no such format", found=name, fix=f"give one of {', '.join(FORMATS)}")
    return FORMATS[name]


def next_step(name: str, out: Place) -> str:
    """What to type in Python to use what was written to `out`."""
    if find(name).use:
        return f"see {out / 'README.md'}"
    if name == "parquet":
        return f'import polars; train = polars.read_parquet("{out / "train.parquet"}")'
    load = f'load_dataset({str(out)!r}, split="train")'
    if is_remote(out):  # the hub's library opens no directory of another store
        kind, files = ("json", "train.jsonl") if name == "jsonl" else ("parquet", "data/*.parquet")
        load = f'load_dataset("{kind}", data_files="{out}/{files}", split="train")'
    if name == "trl":
        return (
            "from datasets import load_dataset; from trl import DPOTrainer; "
            f'DPOTrainer(model="MODEL", train_dataset={load}).train()'
        )
    return f"from datasets import load_dataset; train = {load}"


def _write_shards(frame: pl.DataFrame, directory: Path, made: Made) -> None:
    """`data/train-00000-of-0000N.parquet`, bounded in rows and bytes, in the rows' order."""
    by_size = -(-int(frame.estimated_size()) // MAX_SHARD_BYTES)
    shards = max(by_size, -(-len(frame) // MAX_SHARD_ROWS), 1)
    rows = -(-len(frame) // shards)
    for index, start in enumerate(range(0, len(frame), rows)):
        path = directory / "data" / f"train-{index:05d}-of-{-(-len(frame) // rows):05d}.parquet"
        tables.write_table(frame.slice(start, rows), path, made[-1])


def _write_trl(frame: pl.DataFrame, directory: Path, made: Made) -> None:
    """Only what `trl.DPOTrainer` reads; where any of the texts is messages, all are."""
    frame = frame.select(_trl_columns(frame)).rename({"reward_margin": "margin"}, strict=False)
    if trainers.is_chat(frame):
        frame = trainers.as_messages(frame)
    _write_shards(frame, directory, made)


def _trl_columns(frame: pl.DataFrame) -> list[str]:
    return [name for name in _TRL if name in frame.columns]


def _write_jsonl(frame: pl.DataFrame, directory: Path, made: Made) -> None:
    """One JSON object a line in UTF-8; what JSON has no word for, NaN and infinities, is null."""
    _refuse_bytes(frame)
    with tables.atomic_path(directory / "train.jsonl") as path:
        frame.write_ndjson(path)


def _refuse_bytes(frame: pl.DataFrame) -> None:
    for name, dtype in frame.schema.items():
        if _has_bytes(dtype):
            fix = "give --format hf, or leave the column out of the source"
            refuse("JSON has no form for bytes", column=name, found=str(dtype), fix=fix)


def _has_bytes(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List | pl.Array):
        return _has_bytes(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return any(_has_bytes(field.dtype) for field in dtype.fields)
    return dtype == pl.Binary


def _write_parquet(frame: pl.DataFrame, directory: Path, made: Made) -> None:
    """One Parquet file with every column."""
    tables.write_table(frame, directory / "train.parquet", made[-1])


_SHARDS = "data/train-*.parquet"


def _all(frame: pl.DataFrame) -> list[str]:
    return frame.columns


def _of_trainer(
    name: str,
    losses: tuple[str, ...],
    write: Callable[[pl.DataFrame, Path, Training], None],
    use: str,
) -> Format:
    def with_loss(frame: pl.DataFrame, directory: Path, made: Made) -> None:
        write(frame, directory, Training.after(made).among(losses))

    return Format(name, trainers.DATA_FILE, with_loss, trainers.kept, use, losses)


FORMATS = {
    f.name: f
    for f in (
        Format("hf", _SHARDS, _write_shards, _all),
        Format("trl", _SHARDS, _write_trl, _trl_columns),
        Format("jsonl", "train.jsonl", _write_jsonl, _all),
        Format("parquet", "train.parquet", _write_parquet, _all),
        _of_trainer(
            "llamafactory",
            ("dpo", "ipo", "simpo"),
            trainers.write_llamafactory,
            "Set the model and its template in `llamafactory.yaml`, then run "
            "`llamafactory-cli train llamafactory.yaml` in this directory; "
            "`dataset_info.json` names the data set `denoise`.",
        ),
        _of_trainer(
            "axolotl",
            ("dpo", "ipo", "simpo"),
            trainers.write_axolotl,
            "Set the model in `axolotl.yaml`, then run `axolotl train axolotl.yaml` in "
            "this directory.",
        ),
        _of_trainer(
            "openrlhf",
            ("dpo", "ipo"),
            trainers.write_openrlhf,
            "Set the model in `openrlhf.sh`, then run `sh openrlhf.sh` in this directory. "
            "A reward model (`openrlhf.cli.train_rm`) reads a field `margin`, which "
            "`denoise export --for reward` writes.",
        ),
        _of_trainer(
            "ms-swift",
            ("dpo", "ipo", "simpo", "cpo"),
            trainers.write_swift,
            "Set the model in `swift.sh`, then run `sh swift.sh` in this directory. "
            "`swift rlhf --rlhf_type rm` reads a field `margin`, which "
            "`denoise export --for reward` writes.",
        ),
        _of_trainer(
            "nemo-rl",
            ("dpo",),
            trainers.write_nemo,
            "Merge `nemo-rl.yaml` into your recipe's configuration: the rows are in the "
            "rank form of `PreferenceDataset`.",
        ),
        _of_trainer(
            "torchtune",
            ("dpo",),
            trainers.write_torchtune,
            "Merge `torchtune.yaml` into a DPO recipe's configuration.",
        ),
    )
}
