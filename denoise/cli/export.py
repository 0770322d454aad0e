"""`denoise export`: the weighted dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denoise.cli import app as shared


@shared.app.command()
def export(
    source: shared.Source,
    em_dir: Annotated[
        Path, typer.Argument(metavar="EM_DIR", help="What `denoise em` wrote.", show_default=False)
    ],
    format_: Annotated[
        str, typer.Option("--format", help="hf (with a card), trl (its columns only), or jsonl.")
    ] = "hf",
    rows: Annotated[
        str, typer.Option(help="pairs: one row a pair; votes: every row of the source.")
    ] = "pairs",
    out: Annotated[Path, typer.Option(help="The directory to write.")] = Path("weighted"),
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Upload it too (private unless --public)."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Upload it for all to see.")] = False,
    keep_annotator_ids: Annotated[
        bool, typer.Option("--keep-annotator-ids", help="Upload the ids as they are.")
    ] = False,
    map_: shared.Map = (),
    aspect: shared.Aspect = "overall",
    split: shared.Split = None,
    texts: shared.Texts = None,
) -> None:
    """Write the weighted dataset: prompt, chosen, rejected, weight."""
    from denoise import tables
    from denoise.cli.console import say
    from denoise.importers import import_data
    from denoise.stages import export as stage
    from denoise.stages.em import read_em

    tables.check_out(out, "export")
    data = import_data(source, **shared.import_options(map_, aspect, split, texts))
    result = stage.export(data, read_em(em_dir), rows=rows)
    stage.write_export(result, out, format=format_)
    for note in result.notes:
        say(note)
    say(f"wrote {out}: {len(result.frame):,} rows")
