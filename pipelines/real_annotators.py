"""Real annotators through `denoise run`: whose argument convinces more (UKPConvArg1)?

    python pipelines/real_annotators.py SHARED/ukp_convarg

Five workers a pair said which of two arguments for one stance is the more convincing (Habernal &
Gurevych, ACL 2016). A sample of the pairs goes through the rounds twice: with all of their votes,
and with one vote a pair, drawn at random, where the others are hidden and judge. The policy is a
small one that has read the arguments, without their labels; no policy scores a stance (prompt) that
it was trained on.

What it is held against: the authors' estimate of the truth (MACE on all the votes, so in part on
the ones that are seen here), the hidden votes, and the authors' ranking of the arguments (PageRank
over that estimate). Intervals are of the change since round 0, which has no model: 95 %, from a
bootstrap over stances.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from experiment import BENCHMARKS, Column, lines, markdown, progress, ticks, write
from pretraining import SPECIAL, save_pretrained
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from denoise import import_data, run
from denoise.dataset import Dataset
from denoise.noise import Floats
from denoise.plot import Panel
from denoise.stages.em import read_em

REGIMES = {"one": "one vote a pair", "all": "all votes"}
LENGTH = 160
TRAINING = {"learning_rate": 1e-4, "batch_size": 32, "warmup": 0.1, "max_length": LENGTH}
VOCABULARY, PRETRAINING_EPOCHS = 2_000, 5
DRAWS = 2_000

ACCURACY = Column("accuracy", "Agreement with the authors' estimate")
BRIER = Column("brier", "Brier score against it")
MODEL = Column("model", "Agreement with it of the model alone")
HIDDEN = Column("hidden", "Agreement with the hidden votes")
RANKING = Column("ranking", "Spearman correlation with the authors' ranking, mean over topics")
FIGURES = (ACCURACY, BRIER, MODEL, HIDDEN, RANKING)
SHARES = (ACCURACY.name, MODEL.name, HIDDEN.name)


class Given(NamedTuple):
    """What the command line says; one seed, and `seeds` for the report."""

    source: Path
    out: Path
    work: Path | None
    pairs: int
    rounds: int
    folds: int
    seeds: range


def main() -> None:
    given = _given()
    votes, facts = read_source(given.source)
    seed = given.seeds[0]
    facts = facts.sample(min(given.pairs, len(facts)), seed=seed, shuffle=True)
    votes = votes.join(facts.select("item"), on="item", how="semi", maintain_order="left")
    one = votes.sample(fraction=1.0, seed=seed, shuffle=True)
    one = one.unique("item", keep="first", maintain_order=True)
    visible = {"one": one, "all": votes}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        base = save_base_model(votes, work / "base", seed)
        for regime in progress(list(REGIMES)):
            out = work / regime
            data = import_data(visible[regime].select("prompt", "chosen", "rejected", "annotator"))
            options = {"rounds": given.rounds, "folds": given.folds, "tolerance": 0.0}
            run(data, model=str(base), out=out, seed=seed, **options, **TRAINING)
            hidden = votes.join(visible[regime], on=["item", "annotator"], how="anti")
            truth = known(data, facts, hidden)
            ems = [out / f"round-{number}" / "em" for number in range(given.rounds + 1)]
            told = [evidence(truth, em) for em in ems]
            for number, here in enumerate(told):
                found = {**figures(here), **changes(told[0], here, seed)}
                rows.append({"votes": REGIMES[regime], "round": number, **found})
                print(rows[-1], flush=True)
    report(pl.DataFrame(rows, infer_schema_length=None), votes, one, facts, given)


def read_source(directory: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The votes as `item`, `prompt`, `chosen`, `rejected`, `annotator`, and what is known of items.

    The latter has `item`, `topic`, the texts of its first and second argument, `first_better` as
    the authors estimate it (null where they say equal or nothing), and the arguments' ranks.
    """
    votes = pl.read_parquet(directory / "pairs.parquet")
    labels = pl.read_parquet(directory / "labels.parquet")
    gold = pl.read_parquet(directory / "mace_gold.parquet")
    rank = pl.read_parquet(directory / "author_rank.parquet")
    sides = votes.join(labels, on=["item", "annotator"], maintain_order="left")
    first = pl.col("label") == "a1"
    sides = sides.unique("item", keep="first", maintain_order=True).select(
        "item",
        "prompt",
        topic=pl.col("item").str.split("|").list.first(),
        ids=pl.col("item").str.split("|").list.last().str.split("_"),
        first=pl.when(first).then("chosen").otherwise("rejected"),
        second=pl.when(first).then("rejected").otherwise("chosen"),
    )
    better = pl.col("label").replace_strict({"a1": True, "a2": False}, default=None)
    facts = sides.join(gold.select("item", first_better=better), on="item", maintain_order="left")
    ranks = rank.select(id="#id", rank=pl.col("rank").cast(pl.Float64)).unique("id", keep="first")
    for place, name in enumerate(("first_rank", "second_rank")):
        facts = facts.with_columns(id=pl.col("ids").list.get(place))
        facts = facts.join(ranks.rename({"rank": name}), on="id", how="left", maintain_order="left")
    return votes, facts.drop("id", "ids")


def known(data: Dataset, facts: pl.DataFrame, hidden: pl.DataFrame) -> pl.DataFrame:
    """What is known of each pair, told along response a: gold, ranks, and the hidden votes for it.

    `pair_id`, `prompt`, `topic`, the texts `a` and `b`, `a_better`, `rank_a`, `rank_b`, `for_a` and
    `against_a` (hidden votes).
    """
    pairs = data.pairs.select("pair_id", "prompt", a="response_a", b="response_b")
    straight = facts.rename(
        {
            "first": "a",
            "second": "b",
            "first_rank": "rank_a",
            "second_rank": "rank_b",
            "first_better": "a_better",
        }
    )
    turned = straight.rename({"a": "b", "b": "a", "rank_a": "rank_b", "rank_b": "rank_a"})
    turned = turned.with_columns(~pl.col("a_better"))
    either = pl.concat([straight, turned.select(straight.columns)])
    found = pairs.join(either, on=["prompt", "a", "b"], how="inner", maintain_order="left")
    found = found.unique("pair_id", keep="first", maintain_order=True)  # texts can occur twice
    votes = hidden.group_by("prompt", a="chosen", b="rejected").agg(for_a=pl.len())
    keys = ["prompt", "a", "b"]
    found = found.join(votes, on=keys, how="left", maintain_order="left")
    against = votes.rename({"a": "b", "b": "a", "for_a": "against_a"})
    found = found.join(against, on=keys, how="left", maintain_order="left")
    return found.with_columns(pl.col("for_a", "against_a").fill_null(0))


def evidence(truth: pl.DataFrame, em: Path) -> pl.DataFrame:
    """The pairs with `posterior` and `margin` of a round, both for a."""
    sign = pl.when(pl.col("vote") == "a").then(1).otherwise(-1)  # margins are along the votes
    votes = read_em(em).confidences.with_columns(margin=sign * pl.col("margin"))
    told = votes.group_by("pair_id").agg(
        posterior=pl.col("pair_posterior").first(), margin=pl.col("margin").drop_nulls().first()
    )
    return truth.join(told, on="pair_id", maintain_order="left")


def figures(told: pl.DataFrame) -> dict[str, float | None]:
    """The figures of a round; None where there is nothing to tell."""
    found: dict[str, float | None] = {
        BRIER.name: ((told["posterior"] - told["a_better"].cast(pl.Float64)) ** 2).mean(),
        RANKING.name: ranking(told),
    }
    for name in SHARES:
        right, weight = agreement(told, name)
        found[name] = float(np.average(right, weights=weight)) if weight.any() else None
    return found


def agreement(told: pl.DataFrame, name: str) -> tuple[Floats, Floats]:
    """How right each pair is in a figure of `SHARES`, 0 to 1, and what it counts; [n] each."""
    if name == HIDDEN.name:
        votes = told.select(n=pl.col("for_a") + pl.col("against_a"), for_a=pl.col("for_a"))
        weight = votes["n"].to_numpy().astype(float)
        truth = np.divide(votes["for_a"].to_numpy(), weight, where=weight > 0, out=weight * 0)
    else:
        better = told["a_better"]
        weight = better.is_not_null().to_numpy().astype(float)
        truth = better.fill_null(False).to_numpy().astype(float)
    score = told["margin"] if name == MODEL.name else told["posterior"] - 0.5
    side = np.sign(score.fill_null(0.0).to_numpy())
    if name == MODEL.name and not side.any():
        weight = weight * 0  # there was no model
    return 0.5 + side * (truth - 0.5), weight


def ranking(told: pl.DataFrame) -> float | None:
    """Mean posterior of winning against rank (the best has the least), mean over large topics."""
    of_a = told.select("topic", text="a", rank="rank_a", won="posterior")
    of_b = told.select("topic", text="b", rank="rank_b", won=1 - pl.col("posterior"))
    arguments = pl.concat([of_a, of_b]).drop_nulls().group_by("topic", "text")
    arguments = arguments.agg(pl.col("rank").first(), pl.col("won").mean())
    by_topic = arguments.group_by("topic").agg(
        pl.len(), rho=pl.corr("won", -pl.col("rank"), method="spearman")
    )
    return by_topic.filter(pl.col("len") >= 10)["rho"].mean()


def changes(first: pl.DataFrame, told: pl.DataFrame, seed: int) -> dict[str, float]:
    """95 % bounds of the change of accuracy and of hidden agreement since the first round."""
    draw = np.random.default_rng(seed)
    found = {}
    for name in (ACCURACY.name, HIDDEN.name):
        (before, _), (after, weight) = agreement(first, name), agreement(told, name)
        if not weight.any():
            continue
        gain = told.select("prompt", gain=(after - before) * weight, weight=weight)
        sums = gain.group_by("prompt").sum().sort("prompt").drop("prompt").to_numpy()
        drawn = draw.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), DRAWS) @ sums
        low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
        found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def save_base_model(votes: pl.DataFrame, directory: Path, seed: int) -> Path:
    """A language model of three quarters of a million parameters that has read the arguments."""
    texts = pl.concat(votes.select("prompt", text=side) for side in ("chosen", "rejected")).unique(
        maintain_order=True
    )
    examples = texts.rows()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([p + text for p, text in examples], trainer)
    how = {"seed": seed, "positions": LENGTH, "epochs": PRETRAINING_EPOCHS}
    return save_pretrained(tokenizer, examples, directory, **how)


def report(
    table: pl.DataFrame, votes: pl.DataFrame, one: pl.DataFrame, facts: pl.DataFrame, given: Given
) -> None:
    """The table, and the figures from round to round."""
    shown = [
        (
            row["votes"],
            row["round"],
            *(_fixed(row[c.name]) for c in FIGURES),
            _change(row, ACCURACY.name),
            _change(row, HIDDEN.name),
        )
        for row in table.iter_rows(named=True)
    ]
    names = ["votes", "round", *(c.name for c in FIGURES), "accuracy_change", "hidden_change"]
    last = table.filter(pl.col("round") == given.rounds)
    reading = ". ".join(_sentence(table.filter(pl.col("votes") == v), v) for v in last["votes"])
    panels = [
        Panel(
            column.title,
            "round",
            "share",
            lines(with_error(table, column), "round", column, "votes"),
            ticks(range(given.rounds + 1)),
        )
        for column in (ACCURACY, MODEL, HIDDEN)
    ]
    annotators = votes["annotator"].n_unique()
    write(
        "real_annotators",
        "Real annotators through the rounds",
        given,
        reading=f"{reading}.",
        body=[
            markdown(pl.DataFrame(shown, names, orient="row")),
            "; ".join(f"`{c.name}`: {c.title.lower()}" for c in FIGURES)
            + ". Round 0 has no model.",
            f"{len(facts):,} pairs of {facts['prompt'].n_unique()} stances, {len(votes):,} votes "
            f"of {annotators:,} annotators ({one['annotator'].n_unique():,} where one vote a pair "
            f"is seen); {given.folds} folds, {TRAINING}.",
        ],
        table=table,
        panels=panels,
        spread="Whiskers: half the 95 % interval of the change since round 0.",
    )


def with_error(table: pl.DataFrame, column: Column) -> pl.DataFrame:
    """The table with half the interval of the change as the figure's error, 0 where it has none."""
    low, high = f"{column.name}_low", f"{column.name}_high"
    error = (pl.col(high) - pl.col(low)) / 2 if low in table.columns else pl.lit(0.0)
    return table.with_columns(error.alias(f"{column.name}_se"))


def _sentence(rows: pl.DataFrame, votes: str) -> str:
    """The change from the first round to the last, by the judges that there are."""
    first, last = rows.row(0, named=True), rows.row(-1, named=True)
    changes = [
        f"{judge} from {100 * first[name]:.1f} to {100 * last[name]:.1f} % "
        f"({_change(last, name, 100, 1)} points)"
        for name, judge in (
            (HIDDEN.name, "the hidden votes"),
            (ACCURACY.name, "the authors' estimate"),
        )
        if last[name] is not None
    ]
    return f"With {votes}, the policy's margins move the agreement with " + ", with ".join(changes)


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _change(row: dict[str, Any], name: str, unit: float = 1, digits: int = 3) -> str:
    """The bounds of a change, in so many to one."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None:
        return "–"
    return f"{unit * low:+.{digits}f} to {unit * high:+.{digits}f}"


def _given() -> Given:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the directory of ukp_convarg's tables")
    parser.add_argument("--out", type=Path, default=BENCHMARKS, help="where the files go")
    parser.add_argument("--work", type=Path, help="keep the runs here, to continue after a kill")
    parser.add_argument("--pairs", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + 1)
    return Given(given.source, given.out, given.work, given.pairs, given.rounds, given.folds, seeds)


if __name__ == "__main__":
    main()
