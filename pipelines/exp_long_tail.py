"""Are a few good annotators found among many bad ones?

    python pipelines/exp_long_tail.py

1,000 annotators with about 40 votes each, 4 votes a pair; a good one is right with 0.95, a bad one
with U(0.45, 0.55). The share of good ones goes from 1 % to 100 %; margins as they are, and none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from experiment import (
    AUC,
    ERROR,
    Column,
    auc,
    best_guess,
    lines,
    markdown,
    measure,
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
from denoise.stages.em import EMResult

GOOD = 0.95
FOUND = Column("found", "Share of good annotators among as many of the highest reliability")
RANKING = Column("ranking", "AUC of the reliability for telling good annotators from bad ones")


def figures(world: Simulation, result: EMResult) -> dict[str, float]:
    """Those of `measure`, and how well the good annotators are found."""
    found = np.nan_to_num(best_guess(world, result))
    good = world.reliability == GOOD
    top = np.argsort(-found, kind="stable")[: good.sum()]
    return measure(world, result) | {
        FOUND.name: float(good[top].mean()),
        RANKING.name: auc(found, good),
    }


def main() -> None:
    given = settings(__doc__, ["paper", "auto", "no-pool", "no-prior", "ignore"])
    n_annotators = 200 if given.quick else 1000
    shares = [0.2, 0.5] if given.quick else [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]

    def plant(case: Mapping[str, Any], seed: int) -> Simulation:
        generator = np.random.default_rng([seed, 1])
        n_good = round(case["good"] * n_annotators)
        planted = np.full(n_annotators, GOOD)
        planted[n_good:] = generator.uniform(0.45, 0.55, n_annotators - n_good)
        # In any order, so that annotators who tie are not found by their place.
        return simulate(10 * n_annotators, reliability=generator.permutation(planted), seed=seed)

    rows = sweep([{"good": share} for share in shares], given, plant, figures)
    columns = [FOUND, RANKING, AUC, ERROR]
    table = over_seeds(rows, ["good", "mode"], columns)
    few = {"good": shares[0]}
    said = (
        "{} mode finds {:.0f} % of them, error {:.3f}, AUC {:.3f}".format(
            mode,
            100 * value(table, FOUND, mode=mode, **few),
            *(value(table, c, mode=mode, **few) for c in (ERROR, AUC)),
        )
        for mode in given.modes
    )
    charts = (
        (FOUND, "Good annotators found", "share found"),
        (RANKING, "Good annotators told from bad ones", "AUC of the reliability"),
        (AUC, "Wrong labels found", "AUC of 1 − confidence"),
        (ERROR, "Reliabilities", "error (RMSE)"),
    )
    write(
        "long_tail",
        "A few good annotators among many bad ones",
        given,
        reading=f"With {100 * shares[0]:g} % good annotators ({n_annotators:,} in all): "
        + "; ".join(said)
        + ".",
        body=[f"## {c.title}\n\n" + markdown(wide(table, ["good"], c)) for c in columns],
        table=table,
        panels=[
            Panel(
                title,
                "share of good annotators",
                label,
                lines(table, "good", column),
                ticks(shares, percent=True),
                ratio=True,
            )
            for column, title, label in charts
        ],
    )


if __name__ == "__main__":
    main()
