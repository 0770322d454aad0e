"""The rounds as one HTML page without scripts: what happened, and whether it helped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from denoise import __version__, tables
from denoise.plain import plain
from denoise.plot import Line, Panel, histogram_svg, lines_svg
from denoise.report.page import render
from denoise.stages.em import EMResult, read_em

if TYPE_CHECKING:
    from denoise.rounds.run import RunResult

REPORT_FILE = "report.html"
SHOWN_ANNOTATORS = 15
MOST_LINES = 8
BINS = 20
CURVE_POINTS = 10


class Agreement(NamedTuple):
    """A point of the calibration curve: votes of like expectation.

    expected: the share that the model of noise expects to side with the policy; observed: that did.
    """

    expected: float
    observed: float
    error: float


def write_report(out: Path, result: RunResult, folds: int) -> None:
    """Write `report.html` of the run in the directory `out`, from the rounds that are in it."""
    rounds = [read_em(out / f"round-{row['round']}" / "em") for row in result.rounds]
    page = render(
        "report.html.jinja",
        version=__version__,
        rounds=result.rounds,
        converged=result.converged,
        folds=folds,
        held_out=result.held_out,
        annotators=_annotators(rounds[-1]),
        n_annotators=len(rounds[-1].annotators),
        notes=[plain(note) for note in rounds[-1].notes],
        plots=_plots(rounds, result.rounds),
        run_id=rounds[-1].provenance.run_id,
    )
    tables.write_text(page, out / REPORT_FILE)


def agreement_curve(result: EMResult, points: int = CURVE_POINTS) -> list[Agreement]:
    """How often votes side with the policy, against what is expected: P = pη + (1 − p)(1 − η).

    p = σ(τ|Δ|) is the policy's own probability of the side it prefers. The votes are sorted by
    their expectation into `points` parts of equal size; error: one standard error of `observed`.
    """
    votes = result.confidences.join(
        result.annotators.select("annotator_id", "reliability"), on="annotator_id", how="left"
    ).filter(pl.col("prob").is_not_null() & pl.col("reliability").is_not_null())
    along = votes["prob"].to_numpy()
    known = along != 0.5
    along, eta = along[known], votes["reliability"].to_numpy()[known]
    p = np.maximum(along, 1 - along)
    expected = p * eta + (1 - p) * (1 - eta)
    sides = along > 0.5
    curve = []
    for part in np.array_split(np.argsort(expected, kind="stable"), points):
        if len(part) > 1:
            share = float(sides[part].mean())
            error = (share * (1 - share) / len(part)) ** 0.5
            curve.append(Agreement(float(expected[part].mean()), share, error))
    return curve


def reliability_lines(rounds: list[EMResult]) -> list[Line]:
    """η by round: of each annotator where they are few, else the shares of them below."""
    by_round = [
        dict(result.annotators.select("annotator_id", "reliability").rows()) for result in rounds
    ]
    names = sorted(by_round[-1])
    values = np.array([[one.get(name) for name in names] for one in by_round], dtype=float)
    x = list(range(len(rounds)))
    if len(names) <= MOST_LINES:
        return [Line(plain(n, 24), x, values[:, k].tolist()) for k, n in enumerate(names)]
    shares = {"highest": 1.0, "90 % below": 0.9, "median": 0.5, "10 % below": 0.1, "lowest": 0.0}

    def quantile(of_round: np.ndarray, q: float) -> float:
        told = of_round[~np.isnan(of_round)]
        return float(np.quantile(told, q)) if len(told) else np.nan

    return [Line(name, x, [quantile(v, q) for v in values]) for name, q in shares.items()]


def _plots(rounds: list[EMResult], summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    panels = []
    lines = reliability_lines(rounds)
    if any(np.isfinite(line.y).any() for line in lines):
        ticks = [(i, str(i)) for i in range(len(rounds))]
        panels.append(Panel("Reliability of the annotators", "round", "η", lines, ticks))
    climbs = [
        Line(f"round {i}", list(range(len(y))), y)
        for i, result in enumerate(rounds)
        if (y := _climb(result))
    ]
    if climbs:
        last = max(len(line.x) for line in climbs) - 1
        ticks = [(i, str(i)) for i in range(0, last + 1, max(last // 5, 1))]
        panels.append(Panel("Objective of EM", "iteration", "log-likelihood", climbs, ticks))
    after = []
    moved = [row["moved"] for row in summaries[1:]]
    x = list(range(1, len(rounds)))
    line = Line("mean |Δw|", x, moved)
    ticks = [(i, str(i)) for i in x]
    after.append(Panel("Movement of the weights", "round", "mean |Δw|", [line], ticks))
    curve = agreement_curve(rounds[-1])
    if curve:
        expected, observed, error = (list(part) for part in zip(*curve, strict=True))
        ticks = [(v / 10, f"{10 * v} %") for v in range(0, 11)]
        ticks = [t for t in ticks if min(expected) <= t[0] <= max(expected)]
        line = Line("votes with the policy", expected, observed, error)
        after.append(
            Panel("Calibration", "expected share", "observed share", [line], ticks, diagonal=True)
        )
    weights = rounds[-1].confidences["confidence"].drop_nulls().to_numpy()
    counts, edges = np.histogram(weights, BINS, (0.0, 1.0))
    weights_plot = histogram_svg(
        counts.tolist(),
        edges.tolist(),
        title="Weights of the labels",
        x_label="probability that the label is right",
        y_label="labels",
        ticks=[0, 0.25, 0.5, 0.75, 1],
    )
    charts = [
        lines_svg(part, title=title)
        for title, part in (("What EM found", panels), ("What became of it", after))
        if part
    ]
    return [*charts, weights_plot]


def _climb(result: EMResult) -> list[float]:
    """The objective by iteration of the first stage, which is the same in all rounds."""
    trace = result.trace
    first = trace.filter(pl.col("stage") == pl.col("stage").first())
    return first["objective"].drop_nulls().to_list()


def _annotators(result: EMResult) -> list[dict[str, object]]:
    """The least reliable annotators, safe to show."""
    frame = result.annotators.sort("reliability", "annotator_id", nulls_last=True)
    rows = frame.head(SHOWN_ANNOTATORS).iter_rows(named=True)
    return [row | {"annotator_id": plain(row["annotator_id"], 60)} for row in rows]
