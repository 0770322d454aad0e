"""Where does EM stop helping when the model's margins are wrong?

    python pipelines/exp_miscalibration.py

The votes of the design page's simulator, beside margins that are too timid or too bold (× 0.1 to
× 10), that have the wrong sign on 0 to 60 % of the pairs, or that are random; with 4 votes a pair
and with 1. EM helps where it finds the wrong labels better than without any model. Also the rows of
the design page's section 3, its own figures beside the measured ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from experiment import (
    AUC,
    ERROR,
    KNOWN,
    MODES,
    Column,
    known_auc,
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

from denoise.noise import Floats
from denoise.plot import Panel
from denoise.simulate import Simulation, reversed_margins, simulate

GAIN = Column("gain", "AUC minus that without the model (`ignore`), same votes", 4)

DESIGN_PAGE = [
    # distortion, votes a pair, annotators; RMSE and AUC in paper mode, and pooled
    ("as is", 4, 50, (0.045, 0.907), (0.027, 0.997)),
    ("× 10", 4, 50, (0.160, 0.869), (0.027, 0.997)),
    ("60 % reversed", 4, 50, (0.461, 0.415), (0.028, 0.990)),
    ("as is", 2, 1000, (0.316, 0.850), (0.132, 0.971)),
]

BY = ["distortion", "votes_a_pair", "annotators"]


def distort(margin: Floats, distortion: str, seed: int) -> Floats:
    """The margins as another model would give them: `as is`, `× 10`, `60 % reversed`, `random`."""
    if distortion == "as is":
        return margin
    if distortion == "random":
        return np.random.default_rng([seed, 1]).normal(0.0, margin.std(), len(margin))
    if distortion.startswith("× "):
        return margin * float(distortion.removeprefix("× "))
    return reversed_margins(margin, float(distortion.split()[0]) / 100, seed + 1000)


def plant(case: Mapping[str, Any], seed: int) -> Simulation:
    """The design page's votes beside distorted margins."""
    world = simulate(2000, case["annotators"], case["votes_a_pair"], seed=seed)
    return world.with_margin(distort(world.margin, case["distortion"], seed))


def with_ceiling(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measurements with each one's gain, and with what knowing everything would give."""
    ignored = {
        tuple(row[name] for name in [*BY, "seed"]): row[AUC.name]
        for row in rows
        if row["mode"] == "ignore"
    }
    for row in rows:
        base = ignored.get(tuple(row[name] for name in [*BY, "seed"]), np.nan)
        row[GAIN.name] = row[AUC.name] - base
    ceilings = []
    for key in dict.fromkeys(tuple(row[name] for name in [*BY, "seed"]) for row in rows):
        _, votes, annotators, seed = key
        found = known_auc(simulate(2000, annotators, votes, seed=seed))
        place = dict(zip([*BY, "seed"], key, strict=True))
        ceilings.append(place | {"mode": KNOWN, ERROR.name: 0.0, AUC.name: found})
    return rows + ceilings


def beside_design_page(table: pl.DataFrame, modes: Sequence[str]) -> str:
    """The rows of the design page, its figures and the measured ones, as Markdown."""
    rows = []
    for distortion, votes, annotators, paper, pooled in DESIGN_PAGE:
        place = {"distortion": distortion, "votes_a_pair": votes, "annotators": annotators}
        row = {
            "margins": distortion,
            "votes a pair": votes,
            "annotators": annotators,
            "paper, design page": "{:.3f} / {:.3f}".format(*paper),
            "pooled, design page": "{:.3f} / {:.3f}".format(*pooled),
        }
        for mode in modes:
            error, found = (value(table, c, **place, mode=mode) for c in (ERROR, AUC))
            row[mode] = f"{error:.3f} / {found:.3f}"
        rows.append(row)
    return markdown(pl.DataFrame(rows))


def reading(table: pl.DataFrame, votes: int, mode: str) -> str:
    """Where the mode is no better than no model, and its worst case, in words."""
    here = table.filter(votes_a_pair=votes, annotators=50, mode=mode)
    harmed = here.filter(pl.col(GAIN.name) < -0.005)["distortion"].to_list()
    worst = here.sort(GAIN.name).row(0, named=True)
    where = f"harms in {len(harmed)} of {len(here)} cases"
    if 0 < len(harmed) <= 4:
        where += f" ({', '.join(harmed)})"
    return (
        f"{mode} mode {where}; worst {worst[GAIN.name]:+.4f}, {worst['distortion']}; "
        f"margins as they are {value(here, GAIN, distortion='as is'):+.4f}"
    )


def main() -> None:
    given = settings(__doc__, list(MODES))
    scales = [0.1, 10] if given.quick else [0.1, 0.2, 0.5, 2, 5, 10]
    shares = [60] if given.quick else [10, 20, 30, 40, 50, 60]
    bold = [f"× {scale:g}" for scale in scales]
    turned = [f"{share} % reversed" for share in shares]
    cases = [
        {"distortion": distortion, "votes_a_pair": votes, "annotators": 50}
        for votes in ([4] if given.quick else [4, 1])
        for distortion in ["as is", *bold, *turned, "random"]
    ]
    cases.append({"distortion": "as is", "votes_a_pair": 2, "annotators": 1000})
    rows = with_ceiling(sweep(cases, given, plant))
    table = over_seeds(rows, [*BY, "mode"], [ERROR, AUC, GAIN])

    scale_of = dict(zip(["as is", *bold], [1.0, *scales], strict=True))
    share_of = dict(zip(["as is", *turned], [0.0, *(s / 100 for s in shares)], strict=True))
    panels, body, said = [], [], []
    body.append(
        "## Beside the design page\n\nError of the reliabilities / AUC.\n\n"
        + beside_design_page(table, given.modes)
    )
    for votes in dict.fromkeys(case["votes_a_pair"] for case in cases if case["annotators"] == 50):
        here = table.filter(votes_a_pair=votes, annotators=50)
        said += [
            f"{votes} vote{'s' * (votes > 1)} a pair: {reading(table, votes, mode)}"
            for mode in given.modes
            if mode in ("paper", "auto") and "ignore" in given.modes
        ]
        for column in (AUC, GAIN, ERROR) if "ignore" in given.modes else (AUC, ERROR):
            shown = here if column is AUC else here.filter(pl.col("mode") != KNOWN)
            body.append(
                f"## {column.title}, {votes} vote{'s' * (votes > 1)} a pair\n\n"
                + markdown(wide(shown, ["distortion"], column))
            )
        for title, label, x_of in (
            ("too timid, too bold", "margins times", scale_of),
            ("wrong sign", "share of the margins reversed", share_of),
        ):
            x = pl.col("distortion").replace_strict(x_of, default=None, return_dtype=pl.Float64)
            drawn = here.with_columns(x=x).drop_nulls("x").sort("x")
            panels.append(
                Panel(
                    f"{title}, {votes} vote{'s' * (votes > 1)} a pair",
                    label,
                    "AUC of 1 − confidence",
                    lines(drawn, "x", AUC),
                    ticks(x_of.values(), percent=x_of is share_of),
                    ratio=x_of is scale_of,
                )
            )
    write(
        "miscalibration",
        "Margins that are not calibrated",
        given,
        reading="Against the same votes without the model, in AUC, where more than 0.005 below "
        f"counts as harm. {'. '.join(said)}."
        if said
        else "Not compared with the same votes without the model (mode `ignore`).",
        body=body,
        table=table,
        panels=panels,
    )


if __name__ == "__main__":
    main()
