"""Paper mode: RE-PO's EM as published, votes on one pair unrelated, the model taken at its word."""

from __future__ import annotations

import numpy as np
import polars as pl

from denoise import noise
from denoise.stages.inference import Inference, TraceRow
from denoise.stages.settings import EMSettings


def infer(table: pl.DataFrame, names: pl.Series, settings: EMSettings) -> Inference:
    """Eq. 4 and 6 (or 7) of arXiv 2509.24159 over the votes with a margin.

    Args:
        table: the votes with what counts, codes of their annotators and Δ along the vote.
        names: the annotators, in the order of the codes.
    """
    learn = table.filter("counted", pl.col("margin").is_not_null()).sort("vote_id")
    margin, annotator = learn["margin"].to_numpy(), learn["annotator"].to_numpy()
    n_annotators = len(names)
    if settings.schedule == "ema":
        fit = noise.fit_ema(
            margin,
            annotator,
            n_annotators,
            eta0=settings.eta0,
            alpha=settings.alpha,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            seed=settings.seed,
        )
    else:
        fit = noise.fit_full_batch(
            margin,
            annotator,
            n_annotators,
            eta0=settings.eta0,
            tolerance=settings.tolerance,
            max_iterations=settings.max_iterations,
        )
    bounds = noise.intervals(margin, annotator, fit.reliability)
    informed = np.bincount(annotator, margin != 0, n_annotators) > 0
    oriented = table["oriented"].to_numpy()
    along = table["margin"].fill_null(0.0).to_numpy()
    confidence = noise.e_step(along, fit.reliability[table["annotator"].to_numpy()])
    trace = (TraceRow(settings.schedule, *row[:3], 1.0, row[3]) for row in fit.trace)
    return Inference(
        reliability=np.where(informed, fit.reliability, np.nan),
        low=np.where(bounds.identified, bounds.low, np.nan),
        high=np.where(bounds.identified, bounds.high, np.nan),
        used=np.bincount(annotator, minlength=n_annotators),
        identified=informed & bounds.identified,
        saturated=informed & bounds.saturated,
        prob=np.where(oriented, noise.sigmoid(along), np.nan),
        confidence=np.where(oriented, confidence, np.nan),
        posterior=_alone(table, confidence),
        trace=tuple(trace),
        converged=fit.converged,
        summary={
            "objective": fit.trace[-1].objective,
            "expected_wrong": float((1.0 - confidence[table["counted"].to_numpy()]).sum()),
        },
        notes=_notes(fit, settings),
    )


def _alone(table: pl.DataFrame, confidence: np.ndarray) -> np.ndarray:
    """P(a is truly preferred) where a pair has one counted vote, on all of the pair's rows."""
    w = pl.col("w")
    alone = pl.col("counted").sum().over("pair_id") == 1
    for_a = pl.when(pl.col("vote") == "a").then(w).otherwise(1.0 - w)
    posterior = table.with_columns(w=pl.Series(confidence)).select(
        q=pl.when(alone).then(pl.when("counted").then(for_a).max().over("pair_id"))
    )
    return posterior["q"].fill_null(np.nan).to_numpy()


def _notes(fit: noise.Fit, settings: EMSettings) -> tuple[str, ...]:
    said = [fit.warning] if fit.warning else []
    changes = [row.max_change for row in fit.trace if row.max_change is not None]
    falls = len(fit.trace) > 1 and fit.trace[-1].objective < fit.trace[-2].objective
    if settings.schedule == "ema" and len(changes) >= 3 and falls and changes[-1] > changes[1] / 2:
        said.append(
            f"the moving average oscillates: in the last epoch a reliability still moved by "
            f"{changes[-1]:.2g} and the objective fell; lower --alpha, raise --batch-size, or "
            "use --schedule full"
        )
    return tuple(said)
