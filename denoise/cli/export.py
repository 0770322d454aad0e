"""`denoise export`: the weighted dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denoise.cli import app as shared
from denoise.places import place


@shared.app.command()
def export(
    source: shared.Source,
    em_dir: Annotated[
        Path,
        typer.Argument(
            parser=place,
            metavar="EM_DIR",
            help="What `denoise em` wrote, or a Parquet file with vote_id and confidence.",
            show_default=False,
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="hf, trl (its columns only), jsonl, parquet; or, with its configuration, "
            "llamafactory, axolotl, openrlhf, ms-swift, nemo-rl, torchtune.",
        ),
    ] = "hf",
    strategy: Annotated[
        str | None,
        typer.Option(
            help="weight: beside each row; for trainers without, whose default is sample: "
            "filter, flip, sample; or duplicate.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="filter: the least weight that is kept.")] = 0.5,
    seed: Annotated[int, typer.Option(help="sample: another seed, other draws.")] = 0,
    draws: Annotated[int, typer.Option(help="sample: rows for each row.")] = 1,
    for_: Annotated[
        str,
        typer.Option(
            "--for",
            help="policy, or reward: with a margin for a reward model; not sample or duplicate.",
        ),
    ] = "policy",
    rows: Annotated[
        str, typer.Option(help="pairs: one row a pair; votes: every row of the source.")
    ] = "pairs",
    out: Annotated[Path, shared.path_option(help="The directory to write.")] = Path("weighted"),
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
    from denoise.errors import naming_files, raise_any, refuse
    from denoise.stages import export as stage
    from denoise.stages.em import read_em
    from denoise.stages.formats import find, next_step
    from denoise.stages.hub import push_to_hub as upload
    from denoise.stages.strategies import check_for_reward, for_reward_model, with_strategy

    read = {"DATA": source, "EM_DIR": em_dir, "--texts": texts}
    raise_any(shared.check_apart({"--out": out}, read))
    shared.claim(out, "export")
    of_format = find(format_)
    if for_ not in ("policy", "reward"):
        refuse("--for is neither policy nor reward", found=for_)
    if for_ == "policy":
        strategy = strategy or of_format.default_strategy
        of_format.check(strategy)
    else:
        check_for_reward(strategy or "weight")
    data = shared.load(source, map_, aspect, split, texts)
    made = None
    if em_dir.is_file():  # the user's own weights
        weights, made = tables.read_table(em_dir, schema.CONFIDENCES)
    else:
        weights = read_em(em_dir)
    with naming_files(confidences=em_dir, votes=source, pairs=source):
        weighted = stage.export(data, weights, rows=rows, em_provenance=made)
    weighted = with_strategy(
        weighted, strategy or "weight", threshold=threshold, seed=seed, draws=draws
    )
    if for_ == "reward":
        weighted = for_reward_model(weighted)
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
