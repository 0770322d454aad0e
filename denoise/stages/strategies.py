"""What becomes of the weights where a trainer has no use for them: rows chosen, turned or drawn.

`weight`     the soft label w stays beside each row, for trainers that read it (`denoise train`).
`filter`     rows with w below a threshold are left out: simple, and loses hard pairs too.
`flip`       rows with w < ½ are turned round: the likelier side is `chosen`.
`sample`     each row's orientation is drawn, `chosen` staying with probability w: an unbiased
             estimate of w·L(y_w ≻ y_l) + (1−w)·L(y_l ≻ y_w) in any trainer.
`duplicate`  both orientations, with w and 1 − w as `row_weight`, a multiplier of the row's loss:
             the same sum exactly, in trainers that weight rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from denoise.errors import Fault, raise_any, refuse
from denoise.stages.export import Export

STRATEGIES = ("weight", "filter", "flip", "sample", "duplicate")


def with_strategy(
    result: Export, strategy: str, *, threshold: float = 0.5, seed: int = 0, draws: int = 1
) -> Export:
    """The export with its weights turned into rows; `weight` is w of `chosen` in the row.

    Args:
        result: rows with `weight`, the probability that `chosen` is truly preferred.
        strategy: one of `STRATEGIES`.
        threshold: of `filter`: the least weight that is kept.
        seed: of `sample`.
        draws: of `sample`: rows for each row, numbered in the column `draw` if more than one.

    Raises:
        InputError: there is no such strategy, a setting is out of range or another strategy's, no
            row is left, or the rows are for a reward model and the strategy is not.
    """
    _check(result, strategy, threshold, seed, draws)
    if result.provenance.settings.get("for") == "reward":
        check_for_reward(strategy)
    settings = {**result.provenance.settings, "strategy": strategy}
    match strategy:
        case "weight":
            return result
        case "filter":
            result = _filtered(result, threshold)
            settings["threshold"] = threshold
        case "flip":
            wrong = result.frame["weight"] < 0.5
            note = f"{wrong.sum():,} row(s) turned round, as their label is more likely wrong"
            if result.rows == "pairs":
                note = "rows of pairs have the likelier side as chosen already: nothing to turn"
            result = _noted(result, turned(result.frame, wrong), note)
        case "sample":
            frame, flipped = _sampled(result.frame, seed, draws)
            settings |= {"seed": seed, "draws": draws}
            note = f"{flipped:,} of {len(frame):,} rows drawn against their label (seed {seed})"
            result = _noted(result, frame, note)
        case "duplicate":
            frame = _both(result.frame)
            result = _noted(result, frame, "each row stands in both orientations, with row_weight")
    provenance = replace(result.provenance, settings=settings)
    return replace(result, provenance=provenance)


def for_reward_model(result: Export) -> Export:
    """The export with `reward_margin` = 2w − 1: by how much r(chosen) should exceed r(rejected).

    Reward trainers that read a margin m fit −log σ(r(chosen) − r(rejected) − m) (Touvron et al.,
    arXiv 2307.09288). The scale, 0 to 1, is a choice of ours.
    Rows with w < ½ are turned round first, so that no margin is negative.

    Raises:
        InputError: the strategy of the rows is not for a reward model.
    """
    check_for_reward(result.provenance.settings.get("strategy", "weight"))
    frame = turned(result.frame, result.frame["weight"] < 0.5)
    frame = frame.with_columns(reward_margin=2 * pl.col("weight") - 1)
    settings = {**result.provenance.settings, "for": "reward"}
    note = "rows are for a reward model: the likelier side is chosen, margin is 2·weight − 1"
    provenance = replace(result.provenance, settings=settings)
    return replace(_noted(result, frame, note), provenance=provenance)


def check_for_reward(strategy: str) -> None:
    """Refuse what has a row in its less likely orientation on purpose: the margin turns it back.

    Raises:
        InputError: the strategy is sample or duplicate.
    """
    if strategy in ("sample", "duplicate"):
        refuse(
            f"--for reward turns rows to their likelier side, which undoes --strategy {strategy}",
            fix="give --strategy filter or flip, or leave --for out",
        )


def turned(frame: pl.DataFrame, which: pl.Series) -> pl.DataFrame:
    """The rows, those of `which` turned round: texts, and all that is told along `chosen`."""
    turn = pl.lit(which)

    def either(other: pl.Expr, name: str) -> pl.Expr:
        return pl.when(turn).then(other).otherwise(pl.col(name)).alias(name)

    opposite = {
        "chosen": pl.col("rejected"),
        "rejected": pl.col("chosen"),
        "weight": 1 - pl.col("weight"),
        "margin": -pl.col("margin"),
        "shown_first": pl.col("shown_first").replace({"chosen": "rejected", "rejected": "chosen"}),
    }
    if {"n_votes", "n_agree"} <= set(frame.columns):
        opposite["n_agree"] = pl.col("n_votes") - pl.col("n_agree")
    return frame.with_columns(
        either(expression, name) for name, expression in opposite.items() if name in frame.columns
    )


def _filtered(result: Export, threshold: float) -> Export:
    sure = result.frame["weight"] >= threshold
    frame = result.frame.filter(sure)
    left_out = result.frame.filter(~sure)
    names = [name for name in result.skipped.columns if name in left_out.columns]
    reason = f"its weight is below {threshold:g}"
    skipped = pl.concat(
        [result.skipped, left_out.select(names).with_columns(reason=pl.lit(reason))],
        how="diagonal_relaxed",
    )
    note = f"{len(left_out):,} row(s) left out: {reason}"
    return replace(_noted(result, frame, note), skipped=skipped)


def _sampled(frame: pl.DataFrame, seed: int, draws: int) -> tuple[pl.DataFrame, int]:
    """Rows with drawn orientations, and how many went against their label."""
    if draws > 1:
        frame = frame.join(pl.DataFrame({"draw": range(draws)}), how="cross", maintain_order="left")
    uniform = np.random.default_rng(seed).random(len(frame))
    against = pl.Series(uniform >= frame["weight"].to_numpy())
    return turned(frame, against), int(against.sum())


def _both(frame: pl.DataFrame) -> pl.DataFrame:
    """Each row and its mirror image after it, without those that would count for nothing."""
    order = pl.int_range(pl.len()).alias("_order")
    here = frame.with_columns(order, row_weight="weight")
    there = turned(frame, pl.repeat(True, len(frame), eager=True))
    there = there.with_columns(order, row_weight="weight")
    both = pl.concat([here, there]).sort("_order", maintain_order=True).drop("_order")
    return both.filter(pl.col("row_weight") > 0)


def _noted(result: Export, frame: pl.DataFrame, note: str) -> Export:
    return replace(result, frame=frame, notes=(*result.notes, note))


def _check(result: Export, strategy: str, threshold: float, seed: int, draws: int) -> None:
    if strategy not in STRATEGIES:
        fix = f"it is one of {', '.join(STRATEGIES)}"
        raise_any([Fault("there is no such strategy", found=strategy, fix=fix)])
    ranges = {
        "threshold": (0 <= threshold <= 1, "give 0 to 1"),
        "seed": (seed >= 0, "give 0 or more"),
        "draws": (draws >= 1, "give 1 or more"),
    }
    faults = [
        Fault(f"{name} is out of range", found=value, fix=ranges[name][1])
        for name, value in {"threshold": threshold, "seed": seed, "draws": draws}.items()
        if not ranges[name][0]
    ]
    given = {"filter": threshold != 0.5, "sample": seed != 0 or draws != 1}
    options = {"filter": "threshold", "sample": "seed or draws"}
    faults += [
        Fault(f"{options[name]} means nothing to {strategy}", fix=f"it is of --strategy {name}")
        for name, there in given.items()
        if there and name != strategy
    ]
    if strategy == "filter" and not (result.frame["weight"] >= threshold).any():
        highest = result.frame["weight"].max()
        faults.append(
            Fault(f"no row has a weight of {threshold:g}", found=highest, fix="lower --threshold")
        )
    raise_any(faults)
