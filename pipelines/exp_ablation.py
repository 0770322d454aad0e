"""How much do η_0 and α of the paper's moving average matter?

    python pipelines/exp_ablation.py

Paper mode's mini-batch moving average (Eq. 7, batches of 64, one pass) for every pair of η_0 and α,
on the design page's simulator; beside it paper mode's full-batch EM for every η_0, and auto mode,
which has neither.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from experiment import (
    AUC,
    ERROR,
    fit,
    lines,
    markdown,
    measure,
    over_seeds,
    progress,
    settings,
    ticks,
    wide,
    write,
)

from denoise.plot import Panel
from denoise.simulate import simulate


def main() -> None:
    given = settings(__doc__, ["auto"])
    starts = [0.5, 0.9] if given.quick else [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
    alphas = [0.1, 1.0] if given.quick else [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    variants: dict[str, dict[str, Any]] = {
        f"α = {alpha:g}": {"schedule": "ema", "alpha": alpha} for alpha in alphas
    }
    variants["full batch"] = {"schedule": "full"}
    rows = []
    for start, seed in progress([(start, seed) for start in starts for seed in given.seeds]):
        world = simulate(seed=seed)
        fits = {name: fit(world, "paper", eta0=start, **o) for name, o in variants.items()}
        fits |= {f"{mode} mode": fit(world, mode) for mode in given.modes}
        rows += [
            {"eta0": start, "schedule": name, "seed": seed, **measure(world, result)}
            for name, result in fits.items()
        ]
    table = over_seeds(rows, ["eta0", "schedule"], [ERROR, AUC])
    moving = table.filter(pl.col("schedule").str.starts_with("α"))
    whole = table.filter(schedule="full batch")
    best, worst = (
        moving.sort(AUC.name, descending=best).row(0, named=True) for best in (True, False)
    )
    ends = (
        f"{word} at η_0 = {row['eta0']:g}, {row['schedule']} (error {row[ERROR.name]:.3f}, AUC "
        f"{row[AUC.name]:.4f})"
        for word, row in (("best", best), ("worst", worst))
    )
    charts = (
        (ERROR, "Reliabilities", "error (RMSE)"),
        (AUC, "Wrong labels found", "AUC of 1 − confidence"),
    )
    write(
        "ablation",
        "η_0 and α of the moving average",
        given,
        reading=f"By AUC, the moving average is {' and '.join(ends)}. Full-batch EM has an error "
        "of {:.3f} to {:.3f} and an AUC of {:.4f} to {:.4f}, whatever η_0.".format(
            *(end for c in (ERROR, AUC) for end in (whole[c.name].min(), whole[c.name].max()))
        ),
        body=[
            f"## {c.title}\n\n" + markdown(wide(table, ["eta0"], c, "schedule")) for c, *_ in charts
        ],
        table=table,
        panels=[
            Panel(chart, "η_0", label, lines(table, "eta0", c, "schedule"), ticks(starts))
            for c, chart, label in charts
        ],
    )


if __name__ == "__main__":
    main()
