"""Do the 95 % intervals cover what was planted?

    python pipelines/exp_coverage.py

20 and 1,000 annotators with 5 to 1,000 votes each, pooled (4 votes a pair) and not (1 vote a pair),
margins as they are: how often the interval of a reliability holds the planted one, and how often
that of the number of wrong labels, where the mode gives one, holds the number of wrong labels.
`--seeds` counts the simulations of 40,000 votes; smaller ones get up to ten times as many, larger
ones down to a fifth.
"""

from __future__ import annotations

import math

import polars as pl
from experiment import (
    Column,
    covered,
    fit,
    lines,
    markdown,
    over_seeds,
    progress,
    settings,
    ticks,
    wide,
    write,
)

from denoise.plot import Panel
from denoise.simulate import Simulation, simulate
from denoise.stages.em import EMResult

COVERED = Column("covered", "Coverage of the 95 % intervals of the reliabilities")
WIDTH = Column("width", "Mean width of the intervals")
PRESENT = Column("present", "Share of the annotators who have an interval")
TEMPERATURE = Column("temperature", "Fitted temperature (1 is right)")
WRONG = Column("wrong_covered", "Coverage of the 95 % interval of the number of wrong labels", 2)
WRONG_BIAS = Column("wrong_bias", "Expected over true number of wrong labels, minus 1")
COLUMNS = (COVERED, WIDTH, PRESENT, TEMPERATURE, WRONG, WRONG_BIAS)
BY = ["votes_a_pair", "annotators", "votes_an_annotator"]
TARGET = (0.92, 0.98)
"""What the coverage should lie between."""


def figures(world: Simulation, result: EMResult) -> dict[str, float]:
    """The figures of one fit; the coverage of the number of wrong labels is 0 or 1."""
    inside, table, said = covered(world, result), result.annotators, result.summary
    widths = (table["reliability_high"] - table["reliability_low"]).drop_nulls()
    n_wrong = int(world.wrong.sum())
    low, high = said.get("expected_wrong_low"), said.get("expected_wrong_high")
    bounded = low is not None and high is not None
    temperature = said.get("temperature")
    return {
        COVERED.name: float(inside.mean()) if len(inside) else math.nan,
        WIDTH.name: float(widths.mean()) if len(widths) else math.nan,
        PRESENT.name: len(inside) / len(table),
        TEMPERATURE.name: math.nan if temperature is None else temperature,
        WRONG.name: float(low <= n_wrong <= high) if bounded else math.nan,
        WRONG_BIAS.name: said["expected_wrong"] / n_wrong - 1 if n_wrong else math.nan,
    }


def reading(table: pl.DataFrame, mode: str) -> str:
    """In how many cases the coverage is within `TARGET`, which ones are not, and of the labels."""
    here = table.filter(pl.col(COVERED.name).is_not_null(), mode=mode)
    missed = here.filter(~pl.col(COVERED.name).is_between(*TARGET))
    said = f"{mode} mode in {len(here) - len(missed)} of {len(here)} cases"
    if len(missed):
        found = ", ".join(f"{x:.3f}" for x in sorted(missed[COVERED.name]))
        said += f", outside {found}"
    for votes, wrong in here.drop_nulls(WRONG.name).group_by(BY[0], maintain_order=True):
        share = (wrong[WRONG.name] * wrong["seeds"]).sum() / wrong["seeds"].sum()
        said += (
            f"; with {votes[0]} vote{'s' * (votes[0] > 1)} a pair its interval of the number of "
            f"wrong labels holds it in {100 * share:.1f} % of {wrong['seeds'].sum():,} simulations"
        )
    return said


def main() -> None:
    given = settings(__doc__, ["paper", "auto"])
    votes_each = [5, 100] if given.quick else [5, 10, 20, 50, 100, 300, 1000]
    crowds = [20] if given.quick else [20, 1000]
    cases = [(n, k, each) for n in (4, 1) for k in crowds for each in votes_each]
    rows = []
    for votes, annotators, each in progress(cases):
        case = dict(zip(BY, (votes, annotators, each), strict=True))
        n_votes = annotators * each
        times = min(max(40_000 / n_votes, 0.2), 1 if given.quick else 10)
        for seed in range(math.ceil(times * len(given.seeds))):
            world = simulate(n_votes // votes, annotators, votes, seed=seed)
            rows += [
                case | {"mode": mode, "seed": seed} | figures(world, fit(world, mode))
                for mode in given.modes
            ]
    table = over_seeds(rows, [*BY, "mode"], COLUMNS)
    names = {(n, k): f"{k:,} annotators, {n} vote{'s' * (n > 1)} a pair" for n, k, _ in cases}
    shown = [c for c in COLUMNS if table[c.name].is_not_null().any()]
    write(
        "coverage",
        "Coverage of the intervals",
        given,
        reading="Coverage of the reliabilities between 0.92 and 0.98: "
        + ". ".join(reading(table, mode) for mode in given.modes)
        + ".",
        body=[
            f"## {column.title}\n\n" + markdown(wide(table, [*BY, "seeds"], column))
            for column in shown
        ],
        table=table,
        panels=[
            Panel(
                name,
                "votes an annotator",
                "coverage",
                lines(table.filter(votes_a_pair=n, annotators=k), BY[2], COVERED),
                ticks(votes_each),
                ratio=True,
                references=TARGET,
            )
            for (n, k), name in names.items()
        ],
    )


if __name__ == "__main__":
    main()
