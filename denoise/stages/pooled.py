"""Auto mode: votes on a pair share their truth, the model is calibrated, annotators are shrunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from denoise.noise import log_odds, sigmoid
from denoise.pooled import calibrate, components, index, solve
from denoise.pooled import prior as population
from denoise.pooled.ballots import Votes, ballots
from denoise.pooled.bethe import Integrated, integrate
from denoise.pooled.calibrate import Calibration
from denoise.pooled.maximum import maximum
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Parameters
from denoise.pooled.uncertainty import Uncertainty, uncertainty
from denoise.stages.inference import Inference, TraceRow
from denoise.stages.settings import EMSettings

COLLAPSED = 0.05
"""Distance from ½ within which the mean of the reliabilities counts as collapsed."""

WIDE = 5.0
"""Ratio of the bounds of τ from which the votes hardly tell it."""


def infer(
    table: pl.DataFrame,
    names: pl.Series,
    settings: EMSettings,
    *,
    known: Mapping[str, str],
    start: np.ndarray | None = None,
    whole: bool = False,
) -> Inference:
    """The model of `denoise.pooled` over all counted votes.

    Args:
        table: the votes with what counts, codes of their annotators and Δ along the vote.
        names: the annotators, in the order of the codes.
        known: the truth, "a" or "b", of pairs where it is given.
        start: η of each annotator to start from, [K]; NaN where there is none.
        whole: whether pair ids are whole numbers.
    """
    table, uneven = _with_groups(table, settings.pool, whole)
    groups = _groups(table, known)
    levels, level = _levels(table)
    counted = table["counted"].to_numpy()
    votes = ballots(
        table["group"].to_numpy()[counted],
        table["annotator"].to_numpy()[counted],
        np.where(table["vote"].to_numpy() == "a", 1, -1)[counted],
        groups["margin"].fill_null(np.nan).to_numpy(),
        len(names),
        level=level[counted] if len(levels) > 1 else None,
        n_levels=max(len(levels), 1),
        known=groups["known"].to_numpy(),
        threads=settings.n_threads,
    )
    found = estimate(votes, settings, start=start, levels=levels, uneven=uneven)
    columns = _rows(table, groups, found.log_odds, found.temperature)
    if not settings.pool:
        columns["posterior"] = np.full(len(table), np.nan)
    return replace(found.inference, **columns)


class Estimate(NamedTuple):
    """inference: but for the rows; log_odds: s of each pair, [J]; temperature: τ."""

    inference: Inference
    log_odds: np.ndarray
    temperature: float


def estimate(
    votes: Votes,
    settings: EMSettings,
    *,
    start: np.ndarray | None = None,
    levels: Sequence[str] = (),
    uneven: int = 0,
) -> Estimate:
    """Calibrate, fit, integrate, and say how well all is known.

    Args:
        start: η of each annotator to start from, [K]; NaN where there is none.
        levels: names of the strengths.
        uneven: pairs whose votes came with different margins.
    """
    calibration, fit, turned = _fit(votes, settings, start)
    tau = calibration.temperature

    def integrated() -> tuple[Integrated, Uncertainty, Sequence[np.ndarray]]:
        found = integrate(votes, tau, calibration.prior, fit, settings.tolerance)
        log_odds = votes.each(lambda _, held: held, found.log_odds)
        return found, uncertainty(votes, found, calibration), log_odds

    found, bounds, log_odds = votes.again(integrated)
    eta = sigmoid(found.fit.parameters.theta)
    n = votes.by_annotator(votes.votes)
    sure = n * np.minimum(eta, 1 - eta) < 0.5
    has_evidence = votes.has_margins
    nothing = np.empty(0)
    inference = Inference(
        reliability=np.where(bounds.identified, eta, np.nan),
        low=np.where(bounds.identified, bounds.low, np.nan),
        high=np.where(bounds.identified, bounds.high, np.nan),
        used=n.astype(np.int64),
        identified=bounds.identified,
        saturated=sure & bounds.identified,
        prob=nothing,
        confidence=nothing,
        posterior=nothing,
        trace=_trace(calibration, fit, found.trace),
        converged=fit.converged,
        summary=_summary(votes, calibration, fit, bounds, levels, has_evidence),
        notes=_notes(calibration, fit, bounds, settings, eta, uneven, turned, has_evidence),
    )
    whole = log_odds[0] if len(log_odds) == 1 else np.concatenate(log_odds)
    return Estimate(inference, whole, tau)


def _with_groups(table: pl.DataFrame, pool: bool, whole: bool) -> tuple[pl.DataFrame, int]:
    """The table with `group`, the votes that share a truth, and how many pairs' margins differ.

    Pairs are in the order of `index.keys_of` their ids, so that a sample of them is of any kind,
    and the same where the tables are streamed.
    """
    along_a = pl.col("margin") * pl.when(pl.col("vote") == "b").then(-1.0).otherwise(1.0)
    if not pool:
        alone = pl.col("vote_id").rank("ordinal").cast(pl.Int64) - 1
        return table.with_columns(group=alone, of_a=along_a), 0
    ids = table["pair_id"].unique()
    keys = index.keys_of(index.whole_numbers(ids) if whole else ids)
    order = pl.DataFrame({"pair_id": ids, "key": keys}).sort("key", "pair_id")
    group = pl.int_range(len(ids), dtype=pl.Int64, eager=True)
    grouped = table.with_columns(
        group=pl.col("pair_id").replace_strict(order["pair_id"], group), of_a=along_a
    )
    spread = grouped.group_by("group").agg(
        (pl.col("of_a").max() - pl.col("of_a").min()).alias("spread")
    )
    return grouped, int((spread["spread"] > 1e-9).sum())


def _groups(table: pl.DataFrame, known: Mapping[str, str]) -> pl.DataFrame:
    """`margin` of a over b and `known` (1, −1 or 0) of each group, in the order of its code."""
    truth = (
        pl.col("pair_id")
        .first()
        .replace_strict(
            {pair: 1 if side == "a" else -1 for pair, side in known.items()},
            default=0,
            return_dtype=pl.Int8,
        )
    )
    known_column = truth if known else pl.lit(0, pl.Int8).first()
    return (
        table.group_by("group")
        .agg(pl.col("of_a").mean().alias("margin"), known_column.alias("known"))
        .sort("group")
    )


def _levels(table: pl.DataFrame) -> tuple[list[str], np.ndarray]:
    """The strengths in the counted votes, by name, and each vote's code; empty ones are one."""
    if "strength" not in table.columns:
        return [], np.zeros(len(table), np.int64)
    strength = table["strength"].cast(pl.String).fill_null("")
    names = strength.filter(table["counted"]).unique().sort().to_list()
    if len(names) < 2:
        return [], np.zeros(len(table), np.int64)
    code = strength.replace_strict(dict(zip(names, range(len(names)), strict=True)), default=0)
    return names, code.cast(pl.Int64).to_numpy()


def _fit(
    votes: Votes, settings: EMSettings, start: np.ndarray | None
) -> tuple[Calibration, solve.Fit, int]:
    eta = np.full(votes.n_annotators, settings.eta0)
    if start is not None:
        eta = np.where(np.isnan(start), eta, start)
    parameters = Parameters(log_odds(eta), np.zeros(votes.n_levels))
    prior, learned = _prior(votes, settings)
    calibration = calibrate.calibrate(
        votes,
        parameters,
        prior,
        eta0=settings.eta0,
        fit_temperature=settings.calibrate,
        fit_prior=learned,
    )

    def fit(at: Parameters) -> solve.Fit:
        return maximum(
            votes,
            calibration.temperature,
            calibration.prior,
            at,
            tolerance=settings.tolerance,
            max_iterations=settings.max_iterations,
        )

    found = fit(calibration.parameters)
    at, turned = components.oriented(votes, calibration.temperature, found.parameters)
    return calibration, fit(at) if turned else found, turned


def _prior(votes: Votes, settings: EMSettings) -> tuple[Prior, bool]:
    """The prior to begin with, and whether it is to be learned."""
    if settings.prior == "off":
        return Prior(settings.eta0, 0.0), False
    if isinstance(settings.prior, tuple):
        return Prior.beta(*settings.prior), False
    voted = int((votes.by_annotator(votes.votes) > 0).sum())
    told = bool(votes.has_margins or votes.n_known or not votes.single)
    fixed = Prior(settings.eta0, population.FIXED_STRENGTH)
    return fixed, voted >= population.LEAST and told


def _rows(
    table: pl.DataFrame, groups: pl.DataFrame, s: np.ndarray, tau: float
) -> dict[str, np.ndarray]:
    """prob, confidence and posterior of every row, ties and repeated votes too.

    s: the pairs' log-odds of a, [J].
    """
    group = table["group"].to_numpy()
    known = groups["known"].to_numpy()
    margin = groups["margin"].fill_null(0.0).to_numpy()
    q = np.where(known == 0, sigmoid(s), known > 0)
    sign = np.where(table["vote"].to_numpy() == "a", 1.0, -1.0)
    oriented = table["oriented"].to_numpy()
    along = sign * tau * margin[group]
    # Pairs whose votes are all ties have evidence too.
    known = known[group]
    right = np.where(known == 0, sigmoid(sign * s[group]), (sign * known > 0).astype(float))
    return {
        "prob": np.where(oriented, sigmoid(along), np.nan),
        "confidence": np.where(oriented, right, np.nan),
        "posterior": q[group],
    }


def _trace(
    calibration: Calibration, fit: solve.Fit, sweeps: tuple[solve.Step, ...]
) -> tuple[TraceRow, ...]:
    rows = [
        TraceRow("calibrate", i, value, None, tau, mean)
        for i, (value, tau, mean) in enumerate(calibration.trace)
    ]
    tau = calibration.temperature
    rows += [
        TraceRow(f"fit {step.stage + 1}", *step[:3], tau, step.mean_reliability)
        for step in fit.trace
    ]
    rows += [TraceRow("integrate", *step[:3], tau, step.mean_reliability) for step in sweeps]
    return tuple(rows)


def _summary(
    votes: Votes,
    calibration: Calibration,
    fit: solve.Fit,
    bounds: Uncertainty,
    levels: Sequence[str],
    has_evidence: bool,
) -> dict[str, Any]:
    tau = calibration.temperature
    low, high = bounds.temperature
    fitted = calibration.gain is not None
    shifts = dict(zip(levels, fit.parameters.delta.tolist(), strict=True)) if levels else None
    return {
        "objective": fit.objective,
        "temperature": tau if has_evidence else None,
        "temperature_low": low if fitted and tau else None,
        "temperature_high": high if fitted and tau else None,
        "temperature_gain": calibration.gain,
        "prior_a": calibration.prior.a,
        "prior_b": calibration.prior.b,
        "prior_guessers": calibration.prior.guessers,
        "strength_shifts": shifts,
        "n_known": votes.n_known,
        "expected_wrong": bounds.expected_wrong,
        "expected_wrong_low": bounds.wrong_low,
        "expected_wrong_high": bounds.wrong_high,
    }


def _notes(
    calibration: Calibration,
    fit: solve.Fit,
    bounds: Uncertainty,
    settings: EMSettings,
    eta: np.ndarray,
    uneven: int,
    turned: int,
    has_evidence: bool,
) -> tuple[str, ...]:
    said = []
    if not fit.converged:
        said.append(
            f"EM did not converge in {settings.max_iterations} iterations: a reliability still "
            f"moved by more than {settings.tolerance:.0e}; raise --max-iterations, or read the "
            "reliabilities as approximate"
        )
    if has_evidence and settings.calibrate:
        said.append(_temperature(calibration, bounds))
    if not has_evidence:
        said.append(
            "there is no evidence of a model: what is known comes from votes on the same pairs "
            "and the prior; --scores, --margin or --prob would add to it"
        )
    if uneven:
        said.append(
            f"{uneven:,} pairs have votes with different margins; they share a truth, so the mean "
            "of each pair's margins is used"
        )
    if turned:
        said.append(
            f"{turned:,} group(s) of annotators fit equally well with every label reversed; they "
            "are the way round in which most of them are better than chance"
        )
    if _like_coins(bounds, eta):
        said.append(
            "all reliabilities are near 50 %: the votes look like coin tosses, to each other and "
            "to the model; check that the sides are not mixed up before trusting any weight"
        )
    below = int((bounds.identified & (bounds.high < 0.5)).sum())
    if below:
        said.append(
            f"{below:,} annotator(s) are surely below chance: their labels are likely flipped "
            "(sides swapped in the source, or the question misread); look at them first"
        )
    return tuple(said)


def _like_coins(bounds: Uncertainty, eta: np.ndarray) -> bool:
    """Whether nobody is surely better or worse than chance, nor all of them together."""
    nobody = ((bounds.low <= 0.5) & (bounds.high >= 0.5)).all()
    return bool(nobody and abs(eta.mean() - 0.5) < COLLAPSED)


def _temperature(calibration: Calibration, bounds: Uncertainty) -> str:
    tau = calibration.temperature
    if calibration.contrary is not None:
        used = "are taken at face value" if tau else "are left out"
        return (
            "the model contradicts most labels: they fit together best if only "
            f"{calibration.contrary:.0%} of the labels are right. Either its margins are reversed, "
            f"which is believed here (they {used}), or the sides are swapped in the source: check "
            "a few rows, or give known answers (--truth)"
        )
    if tau == 0:
        return (
            "the model says nothing about these labels (temperature 0): its margins are left out, "
            "and what is known comes from votes on the same pairs and the prior"
        )
    if calibration.gain is not None and calibration.gain < calibrate.WORTH:
        return (
            "these votes are too few to tell how far the model can be trusted: its margins are "
            "taken as they are (temperature 1)"
        )
    low, high = bounds.temperature
    if low > 1.25:
        verdict = f"the model is surer of these labels than it says, its margins count {tau:.2g}×"
    elif high < 0.8:
        verdict = f"the model is over-confident, its margins are divided by {1 / tau:.2g}"
    elif high > WIDE * low:
        verdict = "these votes hardly tell how far the model can be trusted"
    else:
        verdict = "the model is about as sure as it should be"
    return f"temperature {tau:.2g} ({low:.2g} to {high:.2g}): {verdict}"
