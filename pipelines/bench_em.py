"""How fast is EM, against one sum over the votes?

    python pipelines/bench_em.py --votes 100000000

Independent votes (1,000 annotators, sorted), solved to convergence; pooled votes, four a pair, from
calibration to intervals. Prints a Markdown table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import typer

from denoise.noise import log_odds, sigmoid
from denoise.pooled import calibrate, solve
from denoise.pooled.ballots import Ballots
from denoise.pooled.bethe import integrate
from denoise.pooled.maximum import maximum, reliabilities
from denoise.pooled.prior import Prior
from denoise.pooled.uncertainty import uncertainty
from denoise.simulate import planted_reliability

ANNOTATORS = 1000
PER_PAIR = 4
CHUNK = 1 << 22
PRIOR = Prior(0.9, 5.0)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def independent_votes(n: int, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2P − 1 of every vote, sorted by annotator, and where each annotator's end."""
    generator = np.random.default_rng(0)
    ends = np.linspace(0, n, len(eta) + 1).astype(np.int64)
    advantage = np.empty(n, np.float32)
    for k, reliability in enumerate(eta):
        m = ends[k + 1] - ends[k]
        margin = generator.normal(0, 2, m)
        truth = generator.random(m) < sigmoid(margin)
        right = generator.random(m) < reliability
        advantage[ends[k] : ends[k + 1]] = np.tanh(np.where(truth == right, margin, -margin) / 2)
    return ends, advantage


def pooled_votes(n: int, eta: np.ndarray, threads: int) -> Ballots:
    generator = np.random.default_rng(1)
    margin = generator.normal(0, 2, n // PER_PAIR).astype(np.float32)
    truth = generator.random(len(margin)) < sigmoid(margin)
    code = np.empty(len(margin) * PER_PAIR, np.int32)
    for first in range(0, len(code), CHUNK):
        rows = np.arange(first, min(first + CHUNK, len(code)))
        annotator = generator.integers(0, len(eta), len(rows))
        right = generator.random(len(rows)) < eta[annotator]
        code[rows] = 2 * annotator + (truth[rows // PER_PAIR] == right)
    every = np.arange(len(eta))
    return Ballots(
        np.arange(0, len(code) + 1, PER_PAIR),
        code,
        margin,
        np.zeros(0, np.int8),
        every,
        0 * every,
        np.bincount(code >> 1, minlength=len(eta)).astype(np.float64),
        len(eta),
        1,
        threads,
    )


def bench_independent(n: int, eta: np.ndarray, threads: int) -> None:
    ends, advantage = independent_votes(n, eta)
    start = np.full(len(eta), 0.9)
    reliabilities(ends[:3], advantage[: ends[2]], PRIOR, start[:2])  # compile
    rounds = [
        (
            timed(lambda: np.sum(advantage))[0],
            timed(lambda: reliabilities(ends, advantage, PRIOR, start, threads=threads)),
        )
        for _ in range(3)
    ]
    total = min(seconds for seconds, _ in rounds)
    seconds, (found, steps) = min((run for _, run in rounds), key=lambda run: run[0])
    error = np.sqrt(np.mean((found - eta) ** 2))
    row(f"np.sum of {n:,} votes", total, 1.0, "")
    note = f"{steps.mean():.1f} passes an annotator, error of η {error:.1e}"
    row("independent, to convergence", seconds, seconds / total, note)


def bench_pooled(n: int, eta: np.ndarray, threads: int) -> None:
    votes = pooled_votes(n, eta, threads)
    start = solve.Parameters(np.full(len(eta), log_odds(np.float64(0.9))), np.zeros(1))

    def calibrated(of: Ballots) -> calibrate.Calibration:
        return calibrate.calibrate(of, start, PRIOR, eta0=0.9, fit_temperature=True, fit_prior=True)

    few = pooled_votes(4000, eta, 1)
    made = calibrated(few)
    fit = maximum(few, made.temperature, made.prior, made.parameters)
    uncertainty(few, integrate(few, made.temperature, made.prior, fit), made)  # compile
    first, made = timed(lambda: calibrated(votes))
    tau, prior = made.temperature, made.prior
    second, fit = timed(lambda: maximum(votes, tau, prior, made.parameters))
    third, bounds = timed(lambda: uncertainty(votes, integrate(votes, tau, prior, fit), made))
    found = sigmoid(fit.parameters.theta)
    inside = np.mean((bounds.low <= eta) & (eta <= bounds.high))
    row(f"pooled, {n:,} votes: calibration", first, None, f"τ = {made.temperature:.3f}")
    error = np.sqrt(np.mean((found - eta) ** 2))
    row("pooled: EM to convergence", second, None, f"error of η {error:.1e}")
    row("pooled: intervals", third, None, f"{100 * inside:.1f} % cover")
    row("pooled: all", first + second + third, None, "")


def row(what: str, seconds: float | None, ratio: float | None, note: str) -> None:
    shown = "–" if seconds is None else f"{seconds:.3f}"
    print(f"| {what} | {shown} | {'' if ratio is None else f'{ratio:.1f}×'} | {note} |", flush=True)


def main(votes: int = 100_000_000, threads: int = 2) -> None:
    """Print the table."""
    eta = planted_reliability(ANNOTATORS, np.random.default_rng(0))
    print("| what | seconds | ratio | |\n|---|--:|--:|---|")
    bench_independent(votes, eta, threads)
    bench_pooled(votes, eta, threads)


if __name__ == "__main__":
    typer.run(main)
