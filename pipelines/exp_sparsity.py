"""How many votes does an annotator need?

    python pipelines/exp_sparsity.py

About 12,000 votes, dealt out to so many annotators that each has 1 to 300 of them; margins as they
are; 4 votes a pair, and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiment import (
    AUC,
    ERROR,
    TOLD,
    lines,
    markdown,
    over_seeds,
    settings,
    sweep,
    ticks,
    value,
    wide,
    write,
)

from denoise.plot import Panel
from denoise.simulate import Simulation, simulate

BY = ["votes_a_pair", "votes_an_annotator"]


def main() -> None:
    given = settings(__doc__, ["paper", "auto", "no-prior", "no-pool", "ignore"])
    n_votes = 2400 if given.quick else 12_000
    each = [2, 100] if given.quick else [1, 2, 3, 5, 10, 20, 50, 100, 200, 300]

    def plant(case: Mapping[str, Any], seed: int) -> Simulation:
        votes = case["votes_a_pair"]
        annotators = n_votes // case["votes_an_annotator"]
        return simulate(n_votes // votes, annotators, votes, seed=seed)

    cases = [dict(zip(BY, (votes, n), strict=True)) for votes in (4, 1) for n in each]
    table = over_seeds(sweep(cases, given, plant), [*BY, "mode"], [ERROR, AUC, TOLD])
    panels, body, said = [], [], []
    for votes in (4, 1):
        here = table.filter(votes_a_pair=votes)
        name = f"{votes} vote{'s' * (votes > 1)} a pair"
        said += [
            f"{name}, {mode} mode: error {value(here, ERROR, mode=mode, votes_an_annotator=n):.3f} "
            f"and AUC {value(here, AUC, mode=mode, votes_an_annotator=n):.3f} with {n} votes each"
            for mode in given.modes[:2]
            for n in (each[0], each[-1])
        ]
        for column, label in (
            (ERROR, "error of the reliabilities (RMSE)"),
            (AUC, "AUC of 1 − confidence"),
        ):
            panels.append(
                Panel(
                    name, "votes an annotator", label, lines(here, BY[1], column), ticks(each), True
                )
            )
        body += [
            f"## {column.title}, {name}\n\n" + markdown(wide(here, BY[1:], column))
            for column in (ERROR, AUC, TOLD)
        ]
    write(
        "sparsity",
        "Few votes an annotator",
        given,
        reading=f"{n_votes:,} votes. " + "; ".join(said) + ".",
        body=body,
        table=table,
        panels=panels,
    )


if __name__ == "__main__":
    main()
