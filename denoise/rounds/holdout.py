"""Did it help? Two policies on pairs whose better response is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from denoise import schema, tables
from denoise.dataset import Dataset
from denoise.errors import refuse
from denoise.rounds.scoring import rescore
from denoise.scorers.settings import ScoreSettings
from denoise.stages.evidence import delta, score_settings
from denoise.stages.score import plan


@dataclass(frozen=True)
class HeldOut:
    """How often each policy prefers the response that the trusted label prefers.

    n: pairs; plain, denoised: accuracies; low, high: 95 % bounds of their difference; only_plain,
    only_denoised: pairs that one policy alone gets right; p_value: of no difference.
    """

    n: int
    plain: float
    denoised: float
    low: float
    high: float
    only_plain: int
    only_denoised: int
    p_value: float

    def as_dict(self) -> dict[str, Any]:
        """The fields, for `summary.json`."""
        return asdict(self)


def compare(plain: NDArray[np.float64], denoised: NDArray[np.float64]) -> HeldOut:
    """Two policies on the same pairs; each array [n] is Δ along the trusted label, in nats.

    A margin of exactly 0 is half right. The exact test is McNemar's (Psychometrika 12, 1947), over
    the pairs that one policy alone gets right; the interval is Wald's for matched pairs.
    """
    from scipy.stats import binomtest

    right = [(np.sign(margin) + 1) / 2 for margin in (plain, denoised)]
    difference = right[1] - right[0]
    n = len(difference)
    error = 1.96 * float(difference.std(ddof=1)) / np.sqrt(n) if n > 1 else 1.0
    mean = float(difference.mean())
    only = int((difference < 0).sum()), int((difference > 0).sum())
    test = binomtest(only[1], sum(only)).pvalue if sum(only) else 1.0
    return HeldOut(
        n=n,
        plain=float(right[0].mean()),
        denoised=float(right[1].mean()),
        low=max(mean - error, -1.0),
        high=min(mean + error, 1.0),
        only_plain=only[0],
        only_denoised=only[1],
        p_value=float(test),
    )


def trusted_sides(gold: Dataset) -> pl.DataFrame:
    """`pair_id` and `sign` (+1 where a is better) of the pairs whose trusted votes agree.

    Raises:
        InputError: no pair has a trusted side.
    """
    _, votes = gold.preferences()
    sign = pl.col("vote").cast(pl.String).replace_strict({"a": 1.0, "b": -1.0}, default=0.0)
    sides = (
        votes.select(pl.col("pair_id").cast(pl.String), sign=sign)
        .group_by("pair_id", maintain_order=True)
        .agg(pl.col("sign").mean())
        .filter(pl.col("sign").abs() == 1.0)
    )
    if sides.is_empty():
        fix = "give prompt, chosen, rejected"
        refuse("no pair of the held-out data has one better response", file="holdout", fix=fix)
    return sides


def margins(
    gold: Dataset,
    policy: Path,
    reference: str | None,
    file: Path,
    settings: ScoreSettings,
    loss: dict[str, Any],
    announce: Callable[[str], None],
    progress: bool,
) -> pl.DataFrame:
    """`pair_id` and `margin`, Δ of a over b under the policy, scored into `file`; nats."""
    rescore(plan(gold, str(policy), reference, settings, announce), file, announce, progress)
    scores = tables.read_frame(file)
    of_loss = score_settings(
        schema.SCORES, loss["loss"], loss.get("beta"), loss.get("gamma"), False
    )
    return scores.select("pair_id", margin=pl.Series(delta(scores, of_loss)))


def compare_policies(gold: Dataset, plain: pl.DataFrame, denoised: pl.DataFrame) -> HeldOut:
    """The comparison over the pairs that have a trusted side and that both policies scored."""
    both = trusted_sides(gold).join(plain, on="pair_id").join(denoised, on="pair_id", suffix="_new")
    sign = both["sign"].to_numpy()
    return compare(sign * both["margin"].to_numpy(), sign * both["margin_new"].to_numpy())
