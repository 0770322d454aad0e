"""`denoise import`: any preference data to pairs and votes, any labels to labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denoise.cli import app as shared


@shared.app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file (JSONL, JSON, CSV, Parquet; gzip, zstd), a pattern of files, a directory, "
            "the URL of one (s3://, gs://, hf://), or a hub id.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, shared.path_option(help="The directory to write.", show_default=False)],
    map_: shared.Map = (),
    aspect: shared.Aspect = "overall",
    split: shared.Split = None,
    texts: shared.Texts = None,
    format_: shared.Format = None,
) -> None:
    """Read data of any common form into tables of pairs and votes."""
    from denoise.cli.console import next_step, say
    from denoise.dataset import write_dataset
    from denoise.errors import raise_any

    raise_any(shared.check_apart({"--out": out}, {"SOURCE": source, "--texts": texts}))
    shared.claim(out, "import")
    data = shared.load(source, map_, aspect, split, texts, format_)
    write_dataset(data, out)
    for name, frame in data.tables().items():
        say(f"wrote {out / name}: {len(frame):,} rows")
    if data.is_preference:
        next_step("denoise", "score", out, "--policy", "MODEL", "--out", "scores.parquet")
