"""The audit on real tables with known answers: does it rank annotators, and is it safe to believe?

    python pipelines/audit_real.py SHARED_DATA [--peer PYTHON_WITH_CROWD_KIT]

Nothing here sees the answers but to be judged by them. Ranks: Spearman's correlation between what
an audit says of an annotator and his accuracy on known answers, over those with ten or more; beside
it every skill that crowd-kit estimates (crowdkit_skills.py, by its own Python). Safety: accuracy of
the labels with all votes, without the annotators whose votes should not be used (spammer,
adversary), without all who are flagged, weighted by the log-odds of reliability, and by EM. Items
that keep no vote are left out of a comparison.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from experiment import BENCHMARKS, Settings, markdown, progress, write
from scipy.stats import spearmanr

from denoise import audit, em_labels
from denoise.dataset import Dataset
from denoise.noise import Floats, log_odds
from denoise.plot import Line, Panel
from denoise.stages.audit_tables import NEEDS_A_LOOK, USELESS, has_flag
from denoise.tables import Provenance

SETS = (
    "bluebird",
    "rte",
    "dog",
    "trec",
    "face",
    "sentiment",
    "adult",
    "music",
    "zencrowd",
    "fact_eval",
    "wsd",
    "ducks",
    "llmbar_judges",
)
KNOWN = 10
DRAWS = 2_000
OURS = {"reliability": "reliability", "expected_right": "share of votes expected to be right"}
EDGE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the folder of the tables")
    parser.add_argument("--peer", type=Path, help="a Python that has crowd-kit")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--out", type=Path, default=BENCHMARKS, help="where the files go")
    given = parser.parse_args()
    ranks, safety = [], []
    for name in progress(given.sets):
        labels, truth = read(given.source / name)
        found = audit(Dataset(Provenance("import", {"source": name}), labels=labels))
        accuracy = on_known(labels, truth)
        told = accuracy.join(found.annotators, on="annotator_id")
        row = {"set": name, "annotators": len(accuracy)}
        row |= {ours: rank(told["accuracy"], told[ours]) for ours in OURS}
        if given.peer:
            skills = of_peer(given.peer, labels)
            for method in skills["method"].unique(maintain_order=True):
                both = accuracy.join(skills.filter(method=method), on="annotator_id")
                row[f"crowd-kit {method}"] = rank(both["accuracy"], both["skill"])
        ranks.append(row)
        safety.append({"set": name, **safe(labels, truth, found.annotators, found.items)})
        print(ranks[-1], safety[-1], flush=True)
    report(pl.DataFrame(ranks), pl.DataFrame(safety), given.out)


def read(directory: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Labels without those that an annotator repeats, and the known answers."""
    names = {"item": "item_id", "annotator": "annotator_id"}
    labels = pl.read_parquet(directory / "labels.parquet").rename(names)
    labels = labels.select("item_id", "annotator_id", "label")
    labels = labels.unique(["item_id", "annotator_id"], keep="none", maintain_order=True)
    truth = pl.read_parquet(directory / "truth.parquet").rename({"item": "item_id"})
    return labels, truth.select("item_id", truth="label")


def on_known(labels: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """`annotator_id` and `accuracy` of those with `KNOWN` known answers or more."""
    right = pl.col("label") == pl.col("truth")
    told = labels.join(truth, on="item_id").group_by("annotator_id")
    return told.agg(pl.len(), accuracy=right.mean()).filter(pl.col("len") >= KNOWN).drop("len")


def rank(accuracy: pl.Series, skill: pl.Series) -> float:
    """Spearman's correlation; what is not told counts as 0."""
    return float(spearmanr(accuracy, skill.fill_null(0.0).fill_nan(0.0)).statistic)


def of_peer(peer: Path, labels: pl.DataFrame) -> pl.DataFrame:
    """`method`, `annotator_id`, `skill` by crowd-kit."""
    script = Path(__file__).with_name("crowdkit_skills.py")
    with tempfile.TemporaryDirectory() as work:
        source, target = Path(work) / "labels.parquet", Path(work) / "skills.parquet"
        labels.rename({"item_id": "item", "annotator_id": "annotator"}).write_parquet(source)
        subprocess.run([peer, script, source, target], check=True, capture_output=True)
        return pl.read_parquet(target).rename({"annotator": "annotator_id"})


def safe(
    labels: pl.DataFrame, truth: pl.DataFrame, annotators: pl.DataFrame, items: pl.DataFrame
) -> dict[str, float | str]:
    """Accuracy by majority of all votes, of fewer, and weighted; and of EM with all and fewer.

    Changes are of points, with their 95 % interval from a bootstrap over known answers.
    """

    def flagged(flags: list[str]) -> pl.Series:
        return annotators.filter(has_flag(flags))["annotator_id"]

    useless, every = flagged(USELESS), flagged(NEEDS_A_LOOK)
    eta = annotators.select("annotator_id", "reliability")
    n_classes = labels["label"].n_unique()
    eta = eta["reliability"].fill_null(1.0 / n_classes).clip(EDGE, 1.0 - EDGE)
    # Of C classes a vote for one of them counts log((C − 1)η/(1 − η)), which is 0 at chance.
    weight = log_odds(eta.to_numpy()) + np.log(n_classes - 1)
    weights = annotators.select("annotator_id", weight=pl.Series(weight))

    def without(names: pl.Series) -> pl.DataFrame:
        return labels.filter(~pl.col("annotator_id").is_in(names.implode()))

    def of_em(rows: pl.DataFrame) -> Floats:
        data = Dataset(Provenance("import", {"source": "rest"}), labels=rows)
        return right(em_labels(data).items, truth)

    plain, best = by_share(labels, truth), right(items, truth)
    compared = {
        "majority, without useless": (plain, by_share(without(useless), truth)),
        "majority, without flagged": (plain, by_share(without(every), truth)),
        "majority, weighted": (plain, by_share(labels.join(weights, on="annotator_id"), truth)),
        "EM for majority": (plain, best),
        "EM, without useless": (best, of_em(without(useless))),
        "EM, without flagged": (best, of_em(without(every))),
    }
    found: dict[str, float | str] = {
        "useless": len(useless),
        "flagged": len(every),
        "annotators": len(annotators),
        "majority": float(np.nanmean(plain)),
        "EM": float(np.nanmean(best)),
    }
    for name, (before, after) in compared.items():
        change, low, high = changed(before, after)
        found[name] = f"{100 * change:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        found[f"{name}, worse"] = float(high < 0)
    return found


def by_share(labels: pl.DataFrame, truth: pl.DataFrame) -> Floats:
    """Whether the item's most weighty label is the truth, ties shared, by known item, [J].

    NaN where the item has no label.
    """
    if "weight" not in labels.columns:
        labels = labels.with_columns(weight=pl.lit(1.0))
    sums = labels.group_by("item_id", "label").agg(pl.col("weight").sum())
    lead = sums.filter(pl.col("weight") >= pl.col("weight").max().over("item_id") - 1e-9)
    lead = lead.with_columns(share=1.0 / pl.len().over("item_id"))
    hit = truth.join(lead, left_on=["item_id", "truth"], right_on=["item_id", "label"], how="left")
    voted = pl.col("item_id").is_in(labels["item_id"].unique().implode())
    share = pl.when(voted).then(pl.col("share").fill_null(0.0)).otherwise(float("nan"))
    return hit.sort("item_id").select(share).to_series().to_numpy()


def right(items: pl.DataFrame, truth: pl.DataFrame) -> Floats:
    """Whether the label is the truth, by known item, [J]; NaN where the item has none."""
    both = truth.join(items.select("item_id", "label"), on="item_id", how="left").sort("item_id")
    return (both["label"] == both["truth"]).cast(pl.Float64).fill_null(np.nan).to_numpy()


def changed(before: Floats, after: Floats) -> tuple[float, float, float]:
    """The mean change and its 95 % interval over items drawn anew."""
    gain = (after - before)[np.isfinite(after - before)]
    draws = np.random.default_rng(0).integers(len(gain), size=(DRAWS, len(gain)))
    low, high = np.quantile(gain[draws].mean(1), [0.025, 0.975])
    return float(gain.mean()), float(low), float(high)


def report(ranks: pl.DataFrame, safety: pl.DataFrame, out: Path) -> None:
    skills = [name for name in ranks.columns if name not in ("set", "annotators")]
    mean = ranks.select(pl.lit("mean").alias("set"), pl.col(skills).mean())
    whole = pl.concat([ranks, mean], how="diagonal")
    rounded = whole.with_columns(pl.col(skills).round(3))
    worse = [name for name in safety.columns if name.endswith(", worse")]
    n_worse = int(safety.select(pl.sum_horizontal(pl.col(worse).sum())).item())
    peers = [float(mean[name][0]) for name in skills if name not in OURS]
    best = f"; best skill of crowd-kit {max(peers):.3f}" if peers else ""
    told = "; ".join(f"{words} {mean[name][0]:.3f}" for name, words in OURS.items())
    shown = safety.drop(worse).with_columns(pl.col("majority", "EM").round(4))
    lost = [
        f"{row['set']}, {name.removesuffix(', worse')}"
        for row in safety.iter_rows(named=True)
        for name in worse
        if row[name]
    ]
    write(
        "audit_real",
        "The audit on real tables",
        Settings(out, (), range(1), False),
        reading=f"Mean rank correlation with accuracy on known answers: {told}{best}. Of "
        f"{len(worse) * len(safety)} changes of accuracy (flagged left out, or weighted) {n_worse} "
        f"are a loss beyond noise: {'; '.join(lost) or 'none'}.",
        body=[
            "## Rank correlation with accuracy, annotators with ten known answers or more\n\n"
            + markdown(rounded),
            "## Accuracy on known answers, and its change in points\n\n" + markdown(shown),
        ],
        table=whole,
        panels=[panel(ranks, [name for name in skills if name not in OURS])],
        spread="Intervals: 95 %, from a bootstrap over known answers.",
    )


def panel(ranks: pl.DataFrame, peers: list[str]) -> Panel:
    """The ranks by set, and the best that crowd-kit has for each."""
    x = list(range(len(ranks)))
    drawn = [Line(words, x, ranks[name].to_list()) for name, words in OURS.items()]
    if peers:
        best = ranks.select(pl.max_horizontal(peers)).to_series()
        drawn.append(Line("best of crowd-kit's skills, set by set", x, best.to_list()))
    named = [(i, name) for i, name in enumerate(ranks["set"])]
    return Panel("Ranks", "set", "rank correlation with accuracy", drawn, named)


if __name__ == "__main__":
    main()
