"""What the experiments share: EM in its variants on planted votes, the tables and the charts.

An experiment plants votes whose truth it knows, fits them in several modes over several seeds, and
writes NAME.md, NAME.csv and NAME.svg. The columns of its measurements are the condition's own,
`mode`, `seed`, and one for each figure.
"""

from __future__ import annotations

import argparse
import math
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

import denoise
from denoise.noise import Floats, log_odds, sigmoid
from denoise.plot import Line, Panel, lines_svg
from denoise.simulate import Simulation
from denoise.stages.em import EMResult, em

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

MODES: dict[str, dict[str, Any]] = {
    "paper": {"mode": "paper"},
    "auto": {"mode": "auto"},
    "no-pool": {"mode": "auto", "pool": False},
    "no-calibrate": {"mode": "auto", "calibrate": False},
    "no-prior": {"mode": "auto", "prior": "off"},
    "bare": {"mode": "auto", "pool": False, "calibrate": False, "prior": "off"},
    "ignore": {"mode": "auto", "margin_column": None},
}
"""The settings of `em` under each mode's name."""

MEANINGS = {
    "paper": "`--mode paper`",
    "auto": "the default",
    "no-pool": "auto without pooling",
    "no-calibrate": "auto without calibration (τ = 1)",
    "no-prior": "auto without shrinkage",
    "bare": "auto without any of the three",
    "ignore": "auto without the model (no margin)",
    "known": "the posterior under the planted reliabilities and the true log-odds: no method can "
    "be better on average",
}

KNOWN = "known"

Case = TypeVar("Case")


class Settings(NamedTuple):
    """What the command line says; `seeds` are 0 … n−1, `quick` asks for a trial in seconds."""

    out: Path
    modes: tuple[str, ...]
    seeds: range
    quick: bool


class Column(NamedTuple):
    """A figure of the measurements and how tables and charts name and print it."""

    name: str
    title: str
    digits: int = 3


ERROR = Column("reliability_error", "Error of the reliabilities (RMSE over annotators)")
AUC = Column("auc", "AUC of 1 − confidence for finding the wrong labels", 4)

TOLD = Column("told", "Share of the annotators whose reliability the votes tell")


def settings(doc: str, modes: Sequence[str], seeds: int = 10) -> Settings:
    """Read the command line of a script whose docstring is `doc`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=BENCHMARKS, help="where the files go")
    if modes:
        parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(modes))
    parser.add_argument("--seeds", type=int, help=f"how many (default {seeds})")
    parser.add_argument("--quick", action="store_true", help="few and small cases, two seeds")
    given = parser.parse_args()
    count = given.seeds or (2 if given.quick else seeds)
    modes = getattr(given, "modes", ())
    return Settings(given.out, tuple(modes), range(count), given.quick)


def fit(world: Simulation, mode: str, **options: Any) -> EMResult:
    """`em` on the planted votes, in a mode of `MODES`, further settings over the mode's own."""
    return em(world.dataset(), **{"margin_column": "margin"} | MODES[mode] | options)


def auc(score: Floats, positive: NDArray[np.bool_]) -> float:
    """The probability that a positive has the higher score than a negative; ties count half."""
    n = int(positive.sum())
    if n in (0, len(positive)):
        return math.nan
    rank = pl.Series(score).rank("average").to_numpy()
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def reliability(world: Simulation, result: EMResult) -> Floats:
    """The fitted η of each annotator, NaN where the votes do not tell it, [K]."""
    return _by_annotator(world, result, "reliability")


def best_guess(world: Simulation, result: EMResult) -> Floats:
    """`reliability`, and where an annotator's votes do not tell it, what it was before them, [K].

    That is the mean of the prior, or η_0 where there is no prior; NaN is left without votes.
    """
    said = result.summary
    a, b = said.get("prior_a", 0.0), said.get("prior_b", 0.0)
    untold = a / (a + b) if a + b > 0 else said["settings"]["eta0"]
    fitted = reliability(world, result)
    voted = _by_annotator(world, result, "n_votes") > 0
    return np.where(voted & np.isnan(fitted), untold, fitted)


def confidence(result: EMResult) -> Floats:
    """The votes' w in the order of the simulation, [n]."""
    return result.confidences.sort("vote_id")["confidence"].to_numpy()


def measure(world: Simulation, result: EMResult) -> dict[str, float]:
    """`ERROR`, over the annotators with votes, `AUC`, over all votes, and `TOLD` of a fit."""
    off = best_guess(world, result) - world.reliability
    told = result.annotators["reliability"].is_not_null().mean()
    return {
        ERROR.name: float(np.sqrt(np.nanmean(off**2))),
        AUC.name: auc(1 - confidence(result), world.wrong),
        TOLD.name: told,
    }


def known_auc(world: Simulation) -> float:
    """`AUC` where η and the log-odds of the truth are known: `world` as it was planted."""
    weight = world.sign * log_odds(world.reliability)[world.annotator]
    score = world.margin + np.bincount(world.pair, weight, len(world.margin))
    return auc(sigmoid(-world.sign * score[world.pair]), world.wrong)


def covered(world: Simulation, result: EMResult) -> NDArray[np.bool_]:
    """Whether the 95 % interval holds the planted η, for each annotator who has one."""
    low, high = (
        _by_annotator(world, result, name) for name in ("reliability_low", "reliability_high")
    )
    inside = (low <= world.reliability) & (world.reliability <= high)
    return inside[np.isfinite(low) & np.isfinite(high)]


def _by_annotator(world: Simulation, result: EMResult, column: str) -> Floats:
    """A column of `annotators` by the simulation's codes, NaN where there is nothing, [K]."""
    code = result.annotators["annotator_id"].str.strip_prefix("annotator-").cast(pl.Int64)
    values = np.full(len(world.reliability), np.nan)
    values[code.to_numpy()] = result.annotators[column].cast(pl.Float64).fill_null(np.nan)
    return values


def over_seeds(
    rows: Iterable[Mapping[str, Any]], by: Sequence[str], columns: Sequence[Column]
) -> pl.DataFrame:
    """Mean and standard error of each figure over the seeds, `seeds` of them, in order of rows.

    The standard error of `x` is the column `x_se`; a figure that is nowhere finite is null.
    """
    table = pl.DataFrame(list(rows), infer_schema_length=None)
    finite = {c.name: pl.col(c.name).cast(pl.Float64).fill_nan(None) for c in columns}
    return table.group_by(by, maintain_order=True).agg(
        pl.len().alias("seeds"),
        *(x.mean().alias(name) for name, x in finite.items()),
        *((x.std() / x.count().sqrt()).alias(f"{name}_se") for name, x in finite.items()),
    )


def value(table: pl.DataFrame, column: Column, **where: Any) -> float:
    """The figure of the one row of `over_seeds` where the columns are as given."""
    found = table.filter(*(pl.col(name) == each for name, each in where.items()))
    return float(found[column.name].item())


def wide(
    table: pl.DataFrame, by: Sequence[str], column: Column, across: str = "mode"
) -> pl.DataFrame:
    """A figure as text `mean ± standard error`, a row a condition and a column a mode."""
    mean, error = pl.col(column.name), pl.col(f"{column.name}_se")
    text = _fixed(mean, column.digits)
    with_error = pl.concat_str(text, pl.lit(" ± "), _fixed(error, column.digits))
    cell = pl.coalesce(with_error, text, pl.lit("–"))
    return table.with_columns(cell=cell).pivot(
        across, index=list(by), values="cell", maintain_order=True
    )


def _fixed(expression: pl.Expr, digits: int) -> pl.Expr:
    return expression.map_elements(lambda x: f"{x:.{digits}f}", return_dtype=pl.String)


def markdown(table: pl.DataFrame) -> str:
    """The table in Markdown, numbers to the right."""
    rule = [
        "--:" if dtype.is_numeric() or name not in table.columns[:1] else "---"
        for name, dtype in table.schema.items()
    ]
    head = (f"`{name}`" if name in MEANINGS else name.replace("_", " ") for name in table.columns)
    rows = [head, rule, *([_cell(x) for x in row] for row in table.iter_rows())]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(x: Any) -> str:
    if x is None:
        return "–"
    return f"{x:g}" if isinstance(x, float) else str(x)


def lines(table: pl.DataFrame, x: str, column: Column, across: str = "mode") -> tuple[Line, ...]:
    """One line a mode through a figure's means, with whiskers of one standard error."""
    return tuple(
        Line(
            str(name),
            group[x].to_list(),
            group[column.name].fill_null(math.nan).to_list(),
            group[f"{column.name}_se"].fill_null(0.0).to_list(),
        )
        for (name,), group in table.group_by(across, maintain_order=True)
    )


def ticks(values: Iterable[float], percent: bool = False) -> tuple[tuple[float, str], ...]:
    """A tick at each of the values, ascending."""
    return tuple((v, f"{100 * v:g} %" if percent else f"{v:,g}") for v in sorted(set(values)))


def progress(cases: Sequence[Case]) -> Iterator[Case]:
    """The cases, each named on standard error as it begins."""
    for number, case in enumerate(cases, 1):
        print(f"{number}/{len(cases)} {case}", file=sys.stderr)
        yield case


def sweep(
    cases: Sequence[Mapping[str, Any]],
    given: Settings,
    plant: Callable[[Mapping[str, Any], int], Simulation],
    figures: Callable[[Simulation, EMResult], Mapping[str, float]] = measure,
) -> list[dict[str, Any]]:
    """The figures of every case, seed and mode, beside the columns of the case."""
    rows = []
    for case in progress(cases):
        for seed in given.seeds:
            world = plant(case, seed)
            for mode in given.modes:
                found = figures(world, fit(world, mode))
                rows.append({**case, "mode": mode, "seed": seed, **found})
    return rows


def write(
    name: str,
    title: str,
    given: Settings,
    *,
    reading: str,
    body: Sequence[str],
    table: pl.DataFrame,
    panels: Sequence[Panel],
    spread: str = "Mean ± standard error over seeds.",
) -> None:
    """Write NAME.md, NAME.csv and NAME.svg, and say where.

    `reading` says what the figures show, `body` is the tables in Markdown with what belongs to
    them, `table` all the figures; `spread` says what stands behind ± and whiskers.
    """
    given.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", f"pipelines/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    modes = [m for m in (*MODES, KNOWN) if "mode" in table.columns and m in table["mode"]]
    seeds = f"{len(given.seeds)} seed" + "s" * (len(given.seeds) > 1)
    parts = [
        f"# {title}",
        reading,
        f"![{title}]({name}.svg)",
        *body,
        *(["Modes: " + "; ".join(f"`{m}` {MEANINGS[m]}" for m in modes) + "."] if modes else []),
        f"{spread} All figures: [{name}.csv]({name}.csv).",
        f"`{command}`, {seeds}, {datetime.now(UTC):%Y-%m-%d}; denoise "
        f"{denoise.__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"numba {numba.__version__}, polars {pl.__version__}.",
    ]
    files = {
        "md": "\n\n".join(parts) + "\n",
        "csv": table.write_csv(float_precision=6),
        "svg": lines_svg(panels, title=title),
    }
    for suffix, text in files.items():
        (given.out / f"{name}.{suffix}").write_text(text, encoding="utf-8")
        print(given.out / f"{name}.{suffix}")
    print(f"\n{reading}")
