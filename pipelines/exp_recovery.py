"""Does EM find the reliability that was planted? (The paper's Figure 2.)

    python pipelines/exp_recovery.py

One annotator whose noise goes from 0 to 50 %; then two, one with that noise and one with what is
left to 50 %, each on half of the pairs. One vote a pair, so all that is known of an annotator comes
from the model, whose margins are right here. Then the same two annotators on every pair. Where EM
says that a reliability is not identified, there is no estimate.
"""

from __future__ import annotations

import numpy as np
from experiment import (
    TOLD,
    Column,
    fit,
    lines,
    markdown,
    over_seeds,
    progress,
    reliability,
    settings,
    ticks,
    value,
    wide,
    write,
)

from denoise.plot import Panel
from denoise.simulate import simulate

ESTIMATE = Column("estimate", "Estimated reliability")
OFF = Column("off", "Distance of the estimate from the planted reliability")

WORLDS = {
    "one annotator": 1,
    "two annotators, one vote a pair": 1,
    "two annotators, two votes a pair": 2,
}


def main() -> None:
    given = settings(__doc__, ["paper", "auto"])
    noises = [0.0, 0.2, 0.5] if given.quick else [i / 20 for i in range(11)]
    n_pairs = 1000 if given.quick else 5000
    rows = []
    cases = [(name, noise, seed) for name in WORLDS for noise in noises for seed in given.seeds]
    for name, noise, seed in progress(cases):
        planted = np.round([1 - noise, 0.5 + noise], 2)[: 1 if name == "one annotator" else 2]
        world = simulate(n_pairs, votes_per_pair=WORLDS[name], reliability=planted, seed=seed)
        for mode in given.modes:
            found = reliability(world, fit(world, mode))
            for annotator, (estimate, true) in enumerate(zip(found, planted, strict=True)):
                case = {"world": name, "noise": noise, "annotator": "AB"[annotator]}
                figures = {"planted": true, "estimate": estimate, "off": abs(estimate - true)}
                figures[TOLD.name] = float(np.isfinite(estimate))
                rows.append(case | {"mode": mode, "seed": seed} | figures)
    by = ["world", "noise", "annotator", "planted", "mode"]
    table = over_seeds(rows, by, [ESTIMATE, OFF, TOLD])
    curves = over_seeds(rows, ["world", "mode", "planted"], [ESTIMATE]).sort("planted")
    mean = over_seeds(rows, ["world", "mode"], [OFF, TOLD])
    said = (
        f"{world}: {value(mean, OFF, world=world, mode=mode):.3f} in {mode} mode, where "
        f"{100 * value(mean, TOLD, world=world, mode=mode):.0f} % are identified"
        for world in WORLDS
        for mode in given.modes
    )
    panels = [
        Panel(
            world,
            "planted reliability",
            "estimated reliability",
            lines(curves.filter(world=world), "planted", ESTIMATE),
            ticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
            diagonal=True,
        )
        for world in WORLDS
    ]
    write(
        "recovery",
        "Recovery of the planted reliability",
        given,
        reading=f"Mean distance from the planted reliability, {n_pairs:,} pairs: "
        + "; ".join(said)
        + ".",
        body=[
            f"## {world.capitalize()}\n\n"
            + markdown(wide(table.filter(world=world), by[1:-1], ESTIMATE))
            + f"\n\n{TOLD.title}:\n\n"
            + markdown(wide(table.filter(world=world), by[1:-1], TOLD))
            for world in WORLDS
        ],
        table=table,
        panels=panels,
    )


if __name__ == "__main__":
    main()
