"""The tables and the picture of noise_robustness.py, from its lines."""

from __future__ import annotations

from typing import Any

import polars as pl
from experiment import Column, lines, markdown, over_seeds, ticks, wide, write

from denoise.plot import Panel

OTHER_NOISE = 0.3
"""Of the losses other than DPO, and of the controls."""

METHODS = {
    "true labels": "trained on the truth: what could be had",
    "plain": "trained on the labels as they are",
    "smoothing": "label smoothing (cDPO), told the true share of wrong labels",
    "rdpo": "rDPO, told the true share of wrong labels",
    "online": "RE-PO's Algorithm 1",
    "in-sample": "two stages: weights from a policy that was trained on the same labels",
    "cold rounds": "`denoise run --no-warm-start`: the last training is as long as plain training",
    "rounds": "`denoise run`: folds go on from round to round, and the last policy from their mean",
    "plain as long": "the trainings and the mean of `rounds`, on the labels as they are",
}

ACCURACY = Column("accuracy", "Accuracy on held-out clean pairs")
ERROR = Column("reliability_error", "Error of the reliabilities (RMSE over annotators)")


def won_back(table: pl.DataFrame, method: str) -> float:
    """The share of the way from plain training to the true labels, summed over seeds."""
    by = {
        name: table.filter(pl.col("method") == name).sort("seed")["accuracy"].sum()
        for name in ("plain", "true labels", method)
    }
    return (by[method] - by["plain"]) / (by["true labels"] - by["plain"])


def report(rows: list[dict[str, Any]], given: Any, set_up: str) -> None:
    """The table over seeds, the shares won back, and the picture; `set_up` ends the page."""
    raw = pl.DataFrame(rows, infer_schema_length=None)
    if ERROR.name not in raw.columns:
        raw = raw.with_columns(pl.lit(None, pl.Float64).alias(ERROR.name))
    # Without noise the labels are the truth.
    clean = raw.filter((pl.col("noise") == 0) & (pl.col("method") == "plain"))
    raw = pl.concat([raw, clean.with_columns(method=pl.lit("true labels"))])
    by = ["loss", "objective", "noise", "method"]
    table = over_seeds(raw.rows(named=True), by, [ACCURACY, ERROR])
    dpo = table.filter(pl.col("loss") == "dpo").sort("noise", maintain_order=True)
    shares = _shares(raw)
    of_rounds = shares.filter((pl.col("loss") == "dpo") & (pl.col("method") == "rounds"))
    told = "; ".join(
        f"{100 * share:.0f} % at {100 * noise:.0f} % noise"
        for noise, share in of_rounds.select("noise", "won_back").iter_rows()
    )
    seconds = raw.group_by("method", maintain_order=True).agg(pl.col("seconds").mean().round(0))
    body = [
        *_same_trainings(raw),
        "DPO, accuracy on clean pairs:",
        markdown(wide(dpo.drop("objective"), ["noise"], ACCURACY, "method")),
        "DPO, error of the reliabilities:",
        markdown(wide(dpo.filter(pl.col(ERROR.name).is_not_null()), ["noise"], ERROR, "method")),
        "Share of the way from plain training to the true labels (ratio of sums over seeds):",
        markdown(
            shares.with_columns(pl.col("won_back").round(3)).pivot(
                "method", index=["loss", "objective", "noise"], values="won_back"
            )
        ),
    ]
    others = table.filter(pl.col("loss") != "dpo")
    if len(others):
        body += [
            f"The other losses at {100 * OTHER_NOISE:.0f} % noise:",
            markdown(wide(others, ["loss", "objective"], ACCURACY, "method")),
        ]
    body += [
        "Seconds a case: " + ", ".join(f"{m} {s:g}" for m, s in seconds.iter_rows()) + ".",
        "Methods: " + "; ".join(f"`{name}` {what}" for name, what in METHODS.items()) + ".",
        set_up,
    ]
    noise_ticks = ticks(raw["noise"].unique(), percent=True)
    panels = [
        Panel(
            "Accuracy on clean pairs",
            "share of wrong labels",
            "accuracy",
            lines(dpo, "noise", ACCURACY, "method"),
            noise_ticks,
        )
    ]
    errors = dpo.filter(pl.col(ERROR.name).is_not_null())
    if len(errors):
        panels.append(
            Panel(
                "Error of the reliabilities",
                "share of wrong labels",
                "RMSE",
                lines(errors, "noise", ERROR, "method"),
                noise_ticks,
            )
        )
    write(
        "noise_robustness",
        "Training on noisy labels",
        given,
        reading=f"The rounds win back {told} of what noise costs plain DPO.",
        body=body,
        table=table,
        panels=panels,
    )


def _same_trainings(raw: pl.DataFrame) -> list[str]:
    """How the rounds stand between plain labels and the truth in the very same trainings."""
    of = raw.filter((pl.col("loss") == "dpo") & (pl.col("objective") == "mixture"))

    def mean(method: str, noise: float) -> float | None:
        found = of.filter((pl.col("method") == method) & (pl.col("noise") == noise))
        return found["accuracy"].mean()

    noise = OTHER_NOISE
    plain, longer, rounds = (mean(name, noise) for name in ("plain", "plain as long", "rounds"))
    truth = mean("rounds", 0.0)
    if longer is None or truth is None:
        return []
    return [
        f"The longer training by itself is not it: at {100 * noise:.0f} % noise plain labels in "
        f"the rounds' trainings end at {longer:.3f} ({plain:.3f} in one training), the truth in "
        f"them, which is the rounds without noise, at {truth:.3f}, and the rounds at {rounds:.3f}: "
        f"{100 * (rounds - longer) / (truth - longer):.0f} % of that way."
    ]


def _shares(raw: pl.DataFrame) -> pl.DataFrame:
    rows = []
    noisy = raw.filter(pl.col("noise") > 0)
    for of, group in noisy.group_by(["loss", "objective", "noise"], maintain_order=True):
        for method in group["method"].unique(maintain_order=True):
            if method not in ("plain", "true labels"):
                rows.append((*of, method, won_back(group, method)))
    columns = ["loss", "objective", "noise", "method", "won_back"]
    return pl.DataFrame(rows, columns, orient="row").sort("loss", "noise", maintain_order=True)
