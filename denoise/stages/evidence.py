"""What a model says about each vote: margins from scores, or from a user's own column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from denoise import losses, noise, parquet, schema, tables
from denoise.dataset import Dataset
from denoise.errors import Fault, raise_any, refuse
from denoise.places import Place
from denoise.plain import quote
from denoise.scores import score_files
from denoise.tables import Provenance

_TRAINERS = {
    "trl-dpo": ("DPO", frozenset({"dpo", "ipo"})),
    "trl-cpo": ("CPO", frozenset({"simpo", "cpo"})),
}
"""The trainer whose tokenisation each rule is, and the losses that trainer has."""


@dataclass(frozen=True)
class Evidence:
    """margin: Δ of a over b for every vote, in nats, null where there is none.

    `settings` and `inputs` go into the provenance; `notes` are sentences for the user.
    """

    margin: pl.Series
    settings: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def no_evidence(votes: pl.DataFrame) -> Evidence:
    """A margin of 0 for every vote."""
    return Evidence(pl.repeat(0.0, len(votes), eager=True), {"evidence": "none"})


def from_scores(
    pairs: pl.DataFrame,
    votes: pl.DataFrame,
    scores: pl.DataFrame,
    provenance: Provenance | None,
    *,
    loss: str | None,
    beta: float | None,
    gamma: float | None,
    ipo_sum: bool,
) -> Evidence:
    """The margins of a loss (see `denoise.losses`) from log-probs, or the differences of rewards.

    Raises:
        InputError: the scores depart from their contract, are of other pairs (by hash, or by pair
            id), lack the reference the loss needs, or a setting is out of range.
    """
    contract = schema.scores_contract(scores.columns)
    raise_any(schema.faults(scores, contract, "scores"))
    settings = score_settings(contract, loss, beta, gamma, ipo_sum)
    _check_pairs(pairs, scores, provenance)
    margin = _by_pair(votes, scores["pair_id"], pl.Series(delta(scores, settings)))
    inputs = {"scores": provenance.run_id if provenance else _values_hash(votes, margin)}
    notes = tokenisation_note(settings.get("loss"), provenance)
    return Evidence(margin, settings, inputs, notes)


def delta(scores: pl.DataFrame, settings: Mapping[str, Any]) -> NDArray[np.float64]:
    """Δ of a over b of each row of scores, [n], nats; `settings` as `score_settings` gives them.

    Of rewards it is their difference: p = σ(r(a) − r(b)), as a reward model is trained
    (Bradley and Terry, 1952).

    Raises:
        InputError: reference log-probs that the loss needs are missing.
    """
    if settings["evidence"] == "rewards":
        a, b = (scores[name].cast(pl.Float64).to_numpy() for name in ("a_reward", "b_reward"))
        return a - b
    loss = settings["loss"]
    check_reference(scores, loss)
    columns = ("policy_a_logps", "policy_b_logps", "ref_a_logps", "ref_b_logps")
    logps = losses.PairLogps(
        *(scores[name].cast(pl.Float64).to_numpy() for name in (*columns, "a_tokens", "b_tokens"))
    )
    return losses.margin(
        loss,
        logps,
        beta=settings["beta"],
        gamma=settings.get("gamma"),
        per_token=settings.get("per_token", True),
    )


def check_reference(scores: pl.DataFrame, loss: str) -> None:
    """Refuse scores without reference log-probs for a loss that needs them."""
    if loss not in losses.NEEDS_REFERENCE:
        return
    for name in ("ref_a_logps", "ref_b_logps"):
        missing = scores[name].is_null()
        if missing.any():
            refuse(
                f"the loss {loss} needs reference log-probs; {missing.sum():,} are missing",
                file="scores",
                row=missing.arg_true()[0],
                column=name,
                fix="score again with --reference, or use --loss simpo or cpo",
            )


def _by_pair(votes: pl.DataFrame, pair_id: pl.Series, margin: pl.Series) -> pl.Series:
    """The margin of each vote's pair; a column `margin` of the votes' own has no part in it."""
    by_pair = pl.DataFrame({"pair_id": pair_id.cast(pl.String), "margin": margin})
    ids = votes.select("pair_id")
    return ids.join(by_pair, on="pair_id", how="left", maintain_order="left")["margin"]


def from_column(
    data: Dataset, pairs: pl.DataFrame, votes: pl.DataFrame, name: str, *, is_prob: bool
) -> Evidence:
    """The user's own margin (nats), or probability that the first response is the better one.

    A column of `votes` is about the first response of the source row against the second: chosen
    against rejected where the data's provenance says `first: chosen`, else a against b, or b
    against a where the boolean column `swapped` of `votes` says so. A column of `pairs` is about
    a against b. Empty values are votes without a margin. A probability of 0 or 1 counts as
    `noise.EDGE` off, so that its log-odds are finite.

    Raises:
        InputError: there is no such column of numbers, or a value is out of range.
    """
    table = "votes" if name in votes.columns else "pairs"
    source = votes if table == "votes" else pairs
    if name not in source.columns:
        numeric = [n for f in (votes, pairs) for n in f.columns if f[n].dtype.is_numeric()]
        fix = f"columns of numbers are {', '.join(map(quote, numeric)) or 'not there'}"
        refuse("neither the votes nor the pairs have this column", column=name, fix=fix)
    rows = votes["vote_id"] if table == "votes" else pl.int_range(len(pairs), eager=True)
    values, notes = checked_values(source[name], rows, table, is_prob)
    if table == "pairs":
        margin = _by_pair(votes, pairs["pair_id"], values)
    else:
        margin = votes.select(values * _first_is_a(data, votes)).to_series()
    settings = {"evidence": "prob" if is_prob else "margin", "column": name, "table": table}
    return Evidence(margin, settings, {"margin": _values_hash(votes, margin)}, notes)


def _first_is_a(data: Dataset, votes: pl.DataFrame) -> pl.Expr:
    """+1 where the source row's first response is a, −1 where it is b; null for an untold tie."""
    if data.provenance.settings.get("first") == "chosen":
        return pl.col("vote").replace_strict({"a": 1.0, "b": -1.0}, default=None)
    if "swapped" in votes.columns:
        if votes.schema["swapped"] != pl.Boolean:
            found = str(votes.schema["swapped"])
            fix = "say true where the first response is b, or rename the column"
            refuse("wrong type", file="votes", column="swapped", found=found, fix=fix)
        return pl.when(pl.col("swapped").fill_null(False)).then(-1.0).otherwise(1.0)
    return pl.lit(1.0)


def checked_values(
    values: pl.Series, rows: pl.Series, table: str, is_prob: bool
) -> tuple[pl.Series, tuple[str, ...]]:
    """The column as margins, and a note on the probabilities that are exactly 0 or 1.

    `rows` are their numbers for a message: vote ids, as the source may have further rows.
    """
    name = values.name
    if not values.dtype.is_numeric():
        fix = "give a column of numbers"
        refuse("wrong type", file=table, column=name, found=str(values.dtype), fix=fix)
    values = values.cast(pl.Float64)
    wrong = (~values.is_finite()).fill_null(False)
    if is_prob:
        wrong |= (~values.is_between(0.0, 1.0)).fill_null(False)
    if wrong.any():
        row = wrong.arg_true()[0]
        what = "not probabilities" if is_prob else "not finite"
        fix = "leave a value empty where there is none"
        problem = f"{int(wrong.sum())} value(s) that are {what}"
        refuse(problem, file=table, row=rows[row], column=name, found=values[row], fix=fix)
    if not is_prob:
        return values, ()
    edge = int(values.is_in([0.0, 1.0]).sum())
    note = (
        f"{edge:,} value(s) of {name} are exactly 0 or 1; they count as log-odds of "
        f"±{noise.log_odds(np.float64(1.0)):.1f}, which hardly any annotator can outweigh"
    )
    odds = pl.Series(noise.log_odds(values.to_numpy()), nan_to_null=True)
    return odds, (note,) if edge else ()


def _check_pairs(pairs: pl.DataFrame, scores: pl.DataFrame, provenance: Provenance | None) -> None:
    made_for = provenance.inputs.get("pairs") if provenance else None
    if made_for is not None and made_for != schema.pairs_hash(pairs):
        refuse(
            "the scores are stale: they were made for other pairs than these data hold",
            file="scores",
            fix="run `denoise score` on these data again",
        )
    known = pairs["pair_id"].cast(pl.String).implode()
    foreign = (~scores["pair_id"].cast(pl.String).is_in(known)).arg_true()
    if len(foreign):
        refuse(
            f"{len(foreign)} score(s) of pairs that the data do not have",
            file="scores",
            row=foreign[0],
            column="pair_id",
            found=scores["pair_id"][foreign[0]],
            fix="run `denoise score` on these data",
        )


def check_without_scores(
    loss: str | None, beta: float | None, gamma: float | None, ipo_sum: bool
) -> None:
    """Refuse settings of a loss where there are no scores for it to use.

    Raises:
        InputError: the loss is unknown, or any of its settings is given.
    """
    if loss is not None:
        _check_loss(loss)
    settings = {"beta": beta is not None, "gamma": gamma is not None, "ipo_sum": ipo_sum}
    raise_any(
        Fault(f"{name} means nothing without scores", fix="give scores, or leave it out")
        for name, given in settings.items()
        if given
    )


def score_settings(
    contract: schema.Contract,
    loss: str | None,
    beta: float | None,
    gamma: float | None,
    ipo_sum: bool,
) -> dict[str, Any]:
    """What of the settings scores of that contract use, with defaults filled in.

    Raises:
        InputError: a setting is out of range, or given where it means nothing.
    """
    if contract is not schema.REWARDS:
        return loss_settings("dpo" if loss is None else loss, beta, gamma, not ipo_sum)
    settings = {"loss": loss, "beta": beta, "gamma": gamma, "ipo_sum": ipo_sum or None}
    raise_any(
        Fault(f"{name} means nothing to rewards", found=value, fix="leave it out")
        for name, value in settings.items()
        if value is not None
    )
    return {"evidence": "rewards"}


def _check_loss(loss: str) -> None:
    if loss not in losses.LOSSES:
        refuse("unknown loss", found=loss, fix=f"it is one of {', '.join(losses.LOSSES)}")


def loss_settings(
    loss: str, beta: float | None, gamma: float | None, per_token: bool
) -> dict[str, Any]:
    """What of the settings the loss uses, with defaults filled in."""
    _check_loss(loss)
    beta = losses.BETA[loss] if beta is None else beta
    found = []
    if not (math.isfinite(beta) and beta > 0):
        found.append(Fault("beta is out of range", found=beta, fix="give a number above 0"))
    if gamma is not None and loss != "simpo":
        found.append(Fault(f"gamma means nothing to the loss {loss}", fix="it is SimPO's"))
    elif gamma is not None and not (math.isfinite(gamma) and gamma >= 0):
        found.append(Fault("gamma is out of range", found=gamma, fix="give 0 or more"))
    if not per_token and loss != "ipo":
        found.append(Fault(f"ipo_sum means nothing to the loss {loss}", fix="it is IPO's"))
    raise_any(found)
    settings: dict[str, Any] = {"evidence": "scores", "loss": loss, "beta": float(beta)}
    if loss == "simpo":
        settings["gamma"] = losses.GAMMA if gamma is None else float(gamma)
    if loss == "ipo":
        settings["per_token"] = per_token
    return settings


def tokenisation_note(loss: str | None, provenance: Provenance | None) -> tuple[str, ...]:
    """A note where scores were tokenised as for another trainer than that of the loss."""
    rule = provenance.settings.get("tokenize") if provenance else None
    if rule not in _TRAINERS or loss in _TRAINERS[rule][1]:
        return ()
    other = next(name for name in _TRAINERS if name != rule)
    return (
        f"the scores are tokenised as TRL's {_TRAINERS[rule][0]} trainer does it, and {loss} is a "
        f"loss of its {_TRAINERS[other][0]} trainer, which sets other special tokens: its "
        f"log-probs and lengths differ; `denoise score --tokenize {other}` gives the matching ones",
    )


def _values_hash(votes: pl.DataFrame, margin: pl.Series) -> str:
    """The identity of evidence that brings no provenance: its values, by vote."""
    ordered = margin[votes["vote_id"].arg_sort()].cast(pl.Float64).fill_null(math.nan)
    return schema.digest(ordered.to_numpy().astype("<f8").tobytes().hex()).hex()


def join_scores(paths: Place | Sequence[Place]) -> tuple[pl.DataFrame, Provenance | None]:
    """The log-probs or rewards of one file, or of all shards of one `score --shard` job, joined.

    `scores.score_files` says which files a path stands for. The provenance is that of the whole
    job; None for a user's own files.

    Raises:
        InputError: a shard is missing, given twice or of another job, or pairs are repeated.
    """
    files = score_files(paths)
    # A shard whose pairs are all too long has no rows, and only the whole must have some.
    sharded = len(files) > 1
    contract = schema.scores_contract(parquet.columns_of(files[0]).names)
    read = [tables.read_table(file, contract, may_be_empty=sharded) for file in files]
    whole = whole_job(files, [provenance for _, provenance in read])
    columns = [
        pl.col(c.name).cast({"id": pl.String, "int": pl.Int64}.get(c.kind, pl.Float64))
        for c in contract.columns
        if all(c.name in frame.columns for frame, _ in read)
    ]
    joined = pl.concat([frame.select(columns) for frame, _ in read])
    raise_any(schema.faults(joined, contract, files[0]) if joined.is_empty() else [])
    again = (~joined["pair_id"].is_first_distinct()).arg_true()
    if len(again):
        file_of = np.repeat(np.arange(len(files)), [len(frame) for frame, _ in read])
        pair = joined["pair_id"][again[0]]
        first = (joined["pair_id"] == pair).arg_true()[0]
        refuse(
            f"{len(again)} pair(s) are scored again, the first of them in "
            f"{files[file_of[first]].name} too",
            file=files[file_of[again[0]]],
            column="pair_id",
            found=pair,
            fix="give each pair's scores once",
        )
    return joined, whole


def whole_job(files: list[Place], made: list[Provenance | None]) -> Provenance | None:
    """The provenance of the job whose shards these are, once it is sure that all are there."""
    if all(provenance is None for provenance in made):
        return None
    whole: Provenance | None = None
    counts: set[int] = set()
    seen: dict[int, Place] = {}
    for file, provenance in zip(files, made, strict=True):
        if provenance is None:
            refuse("says not what made it, the other scores do", file=file, fix="score it again")
        index, count = provenance.settings.get("shard") or (0, 1)
        job = replace(provenance, settings={**provenance.settings, "shard": None})
        whole = whole or job
        if job.run_id != whole.run_id or (counts and count not in counts):
            changed = _differences(whole, job) or f"shards of {count} and of {counts.pop()}"
            problem = f"its scores are of another job than {files[0].name}: {changed}"
            refuse(problem, file=file, fix="join shards of one job only")
        if index in seen:
            refuse(f"holds the same shard as {seen[index].name}", file=file, fix="give it once")
        counts.add(count)
        seen[index] = file
    missing = sorted(set(range(count)) - set(seen))
    if missing:
        listed = ", ".join(f"{index}/{count}" for index in missing[:10])
        refuse(
            f"{len(missing)} of the {count} shards of its job are missing: {listed}",
            file=files[0],
            fix=f"run `denoise score --shard {missing[0]}/{count}`, or give its file too",
        )
    if whole is None or whole.settings.get("limit"):
        return whole
    return replace(whole, inputs={k: v for k, v in whole.inputs.items() if k != "order"})


def _differences(one: Provenance, other: Provenance) -> str:
    mine, theirs = ({**p.inputs, **p.settings, "version": p.version} for p in (one, other))
    names = sorted(k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k))
    return f"other {', '.join(names)}" if names else ""
