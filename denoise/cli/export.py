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
        Path,
        typer.Argument(
            metavar="EM_DIR",
            help="What `denoise em` wrote, or a Parquet file with vote_id and confidence.",
            show_default=False,
        ),
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
    from denoise import schema, tables
    from denoise.cli.console import say
    from denoise.errors import naming_files
    from denoise.stages import export as stage
    from denoise.stages.em import read_em
    from denoise.stages.formats import next_step
    from denoise.stages.hub import push_to_hub as upload

    tables.check_out(out, "export")
    data = shared.load(source, map_, aspect, split, texts)
    if em_dir.is_file():  # the user's own weights
        confidences, made = tables.read_table(em_dir, schema.CONFIDENCES)
        annotators = None
    else:
        result = read_em(em_dir)
        confidences, annotators, made = result.confidences, result.annotators, result.provenance
    with naming_files(confidences=em_dir, votes=source, pairs=source):
        weighted = stage.export(
            data, confidences, rows=rows, annotators=annotators, em_provenance=made
        )
    stage.write_export(weighted, out, format_)
    for note in weighted.notes:
        say(note)
    say(f"wrote {out}: {len(weighted.frame):,} rows, {len(weighted.skipped):,} left out")
    if push_to_hub:
        url = upload(
            weighted, push_to_hub, private=not public, keep_annotator_ids=keep_annotator_ids
        )
        say(f"uploaded to {url}")
    print(f"\n{next_step(format_, out)}", flush=True)
