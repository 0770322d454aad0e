"""Does the audit find planted trouble, and leave clean crowds alone?

    python pipelines/exp_audit.py

Fifty annotators, five votes an item, ten annotators to a batch of items (audit_crowds.py). In each
crowd with trouble two annotators have each kind of it; "clean" is the same crowd without any. Those
who make few mistakes leave little to see of who copies them: so copies are also counted of those
who make seven or more, of those at 0.85, and by the same test if it were told the truth and how
often everyone is right.
"""

from __future__ import annotations

import polars as pl
from audit_crowds import KINDS, audited, copies_told, crowd, mistakes
from experiment import Column, lines, markdown, over_seeds, progress, settings, ticks, wide, write

from denoise.plot import Panel
from denoise.quality.finding import LEVELS

FOUND = Column("found", "Share of the planted annotators (or pairs) who are flagged for it", 2)
FALSE = Column("false", "Flags a crowd on annotators (or pairs) who are not in that trouble", 2)
COLUMNS = (FOUND, FALSE)
VOTES = (25, 50, 100, 200)
SOURCE = 0.85
MISTAKES = 7
AT = 100


def figures(seed: int, votes_each: int) -> list[dict[str, float | str]]:
    """Found and falsely flagged, by kind, in one crowd with trouble."""
    world = crowd(seed, trouble=True, votes_each=votes_each)
    found = audited(world)
    planted = {kind: set(world.planted[kind]) for kind in KINDS}
    planted["copies"] = {tuple(sorted(pair)) for pair in world.copied}
    rows = [_row(kind, found[kind], planted[kind]) for kind in KINDS]
    errors = mistakes(world)
    enough = {tuple(sorted(pair)) for pair in world.copied if errors[pair[1]] >= MISTAKES}
    missed = planted["copies"] - enough  # flagged or not, they tell nothing of the others
    rows.append(_row(f"copies of {MISTAKES} mistakes or more", found["copies"] - missed, enough))
    rows.append(_row("copies, if the truth were told", copies_told(world), planted["copies"]))
    erring = crowd(seed, trouble=True, votes_each=votes_each, source=SOURCE)
    pairs = {tuple(sorted(pair)) for pair in erring.copied}
    rows.append(_row(f"copies of one at {SOURCE}", audited(erring)["copies"], pairs))
    return rows


def _row(kind: str, found: set, planted: set) -> dict[str, float | str]:
    return {
        "kind": kind,
        FOUND.name: len(found & planted) / len(planted) if planted else float("nan"),
        FALSE.name: float(len(found - planted)),
    }


def main() -> None:
    given = settings(__doc__, [], seeds=100)
    votes_each = VOTES[1:3] if given.quick else VOTES
    rows, clean = [], []
    for each in progress(list(votes_each)):
        for seed in given.seeds:
            rows += [{"votes": each, "seed": seed, **row} for row in figures(seed, each)]
            quiet = crowd(seed, trouble=False, votes_each=each)
            for of in ("pairs", "labels"):
                flags = audited(quiet, as_labels=of == "labels")
                kinds = {kind: bool(found) for kind, found in flags.items()}
                clean.append({"votes": each, "crowd": of, **kinds})
    table = over_seeds(rows, ["votes", "kind"], COLUMNS)
    silent = pl.DataFrame(clean).with_columns(any=pl.any_horizontal(*LEVELS))
    by = ["votes", "crowd"]
    silent = silent.group_by(by, maintain_order=True).agg(pl.col("any", *LEVELS).sum())
    here = table.filter(votes=AT)
    told = "; ".join(f"{kind} {100 * x:.0f} %" for kind, x in here[["kind", "found"]].iter_rows())
    flagged = dict(silent.filter(votes=AT).select("crowd", "any").iter_rows())
    write(
        "audit",
        "What the audit finds",
        given,
        reading=f"With {AT} votes each it finds: {told}. Of {len(given.seeds)} clean crowds "
        f"{flagged['pairs']} have any flag as pairs of responses, {flagged['labels']} as labels.",
        body=[
            *(f"## {c.title}\n\n" + markdown(wide(table, ["votes"], c, "kind")) for c in COLUMNS),
            f"## Clean crowds, of {len(given.seeds)}, with a flag\n\n" + markdown(silent),
        ],
        table=table,
        panels=[
            Panel(
                FOUND.title,
                "votes an annotator",
                "share found",
                lines(table, "votes", FOUND, "kind"),
                ticks(votes_each),
                ratio=True,
                references=(0.9,),
            )
        ],
    )


if __name__ == "__main__":
    main()
