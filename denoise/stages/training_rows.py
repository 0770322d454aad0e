"""The rows of a training: labels as imported, and the reference's log-probs beside them."""

from __future__ import annotations

from typing import Any

import polars as pl

from denoise import schema
from denoise.dataset import Dataset
from denoise.errors import Fault, raise_any, refuse
from denoise.tables import Provenance
from denoise.tokenise import Skip, tokenise
from denoise.trainers.settings import TrainSettings

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
SKIPPED_SCHEMA = {"row": pl.Int64, "reason": pl.String}
"""Rows that are not trained on, counted from 0, and why."""

_ROWS = 4096


def labelled_rows(data: Dataset) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Every vote for a side as `prompt`, `chosen`, `rejected`, with the columns of the source.

    In the order of the source, `weight` and `annotator_id` among the columns where it has them;
    and a note on ties, which have no chosen side.

    Raises:
        InputError: the data are categorical labels, or hold nothing but ties.
    """
    as_text = pl.col("pair_id").cast(pl.String)
    pairs, votes = (table.with_columns(as_text) for table in data.preferences())
    # The texts are the pair's; a vote's own columns of these names would hide them.
    votes = votes.drop("prompt", "response_a", "response_b", strict=False)
    sided = votes.sort("vote_id").filter(pl.col("vote").cast(pl.String).is_in(["a", "b"]))
    if sided.is_empty():
        refuse("every vote is a tie, and a tie has no chosen side", file="votes")
    new = [name for name in pairs.columns if name not in sided.columns or name == "pair_id"]
    joined = sided.join(pairs.select(new), on="pair_id", how="left", maintain_order="left")
    is_a = pl.col("vote").cast(pl.String) == "a"
    rows = joined.with_columns(
        chosen=pl.when(is_a).then("response_a").otherwise("response_b"),
        rejected=pl.when(is_a).then("response_b").otherwise("response_a"),
    ).drop("response_a", "response_b", "vote")
    ties = len(votes) - len(sided)
    return rows, (f"{ties:,} tie(s) left out: a tie has no chosen side",) if ties else ()


def trainable(
    rows: pl.DataFrame, tokenizer: Any, settings: TrainSettings, file: str
) -> tuple[pl.DataFrame, pl.DataFrame, tuple[str, ...]]:
    """The rows that TRL's trainer can learn from, those that it cannot, and notes on both.

    What TRL would leave out silently (`DPOTrainer`: a prompt that fills `max_length`), stop at, or
    train on without a response (`CPOTrainer`) is left out and counted. A response that is longer
    than there is room loses its end, as in TRL, and is counted.

    Raises:
        InputError: none is left, or messages meet a tokenizer without a chat template.
    """
    rule = "trl-dpo" if settings.in_dpo_trainer else "trl-cpo"
    longest = settings.max_length
    texts = rows.select("prompt", "chosen", "rejected")
    skipped, cut = [], 0
    for start in range(0, len(rows), _ROWS):
        batch = texts.slice(start, _ROWS).rows()
        whole = tokenise(tokenizer, batch, rule, longest, truncate=False)
        over = [i for i, pair in enumerate(whole) if isinstance(pair, Skip)]
        again = tokenise(tokenizer, [batch[i] for i in over], rule, longest, truncate=True)
        for i, pair in zip(over, again, strict=True):
            if isinstance(pair, Skip):
                skipped.append((start + i, pair.reason))
            else:
                cut += 1
    left_out = pl.DataFrame(skipped, schema=SKIPPED_SCHEMA, orient="row")
    if len(left_out) == len(rows):
        fix = "raise --max-length"
        refuse("no row can be trained on", file=file, found=left_out["reason"][0], fix=fix)
    reasons = left_out["reason"].value_counts(sort=True).rows()
    notes = [f"{count:,} row(s) not trained on: {reason}" for reason, count in reasons]
    if cut:
        notes.append(f"{cut:,} row(s) are cut at {longest:,} tokens; --max-length N raises that")
    lost = pl.int_range(pl.len()).is_in(left_out["row"].implode())
    return rows.filter(~lost), left_out, tuple(notes)


def of_pairs(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """The rows with the `pair_id` of the pair that has their prompt and both their responses.

    Raises:
        InputError: there is none for a row.
    """
    keys = (_key(*pair) for pair in pairs.select("prompt", "response_a", "response_b").iter_rows())
    known = dict(zip(keys, pairs["pair_id"].cast(pl.String), strict=True))
    found = [known.get(_key(*row)) for row in rows.select("prompt", "chosen", "rejected").rows()]
    if None in found:
        problem = f"{found.count(None):,} row(s) are of no pair of --pairs"
        refuse(problem, file="rows", row=found.index(None), fix="give the data that were scored")
    return rows.with_columns(pair_id=pl.Series(found, dtype=pl.String))


def _key(prompt: object, one: object, other: object) -> bytes:
    """The same in either order of the responses."""
    return schema.digest(schema.canonical(prompt), *sorted(map(schema.canonical, (one, other))))


def with_reference(rows: pl.DataFrame, pairs: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """The rows with `ref_chosen_logps` and `ref_rejected_logps`, in nats, null where not known.

    Args:
        rows: `pair_id` and `chosen`, which is one of the pair's responses.
        pairs: the table of pairs.
        scores: `pair_id`, `ref_a_logps` and `ref_b_logps`.
    """
    sides = pairs.select(pl.col("pair_id").cast(pl.String), a="response_a")
    logps = scores.select(pl.col("pair_id").cast(pl.String), of_a="ref_a_logps", of_b="ref_b_logps")
    joined = (
        rows.select(pl.col("pair_id").cast(pl.String), "chosen")
        .join(sides, on="pair_id", how="left", maintain_order="left")
        .join(logps, on="pair_id", how="left", maintain_order="left")
    )
    is_a = pl.col("chosen") == pl.col("a")
    return rows.hstack(
        joined.select(
            ref_chosen_logps=pl.when(is_a).then("of_a").otherwise("of_b"),
            ref_rejected_logps=pl.when(is_a).then("of_b").otherwise("of_a"),
        )
    )


def with_log_probs(rows: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The rows whose reference log-probs are known, and a note on the others.

    Raises:
        InputError: there are none.
    """
    known = rows.filter(pl.all_horizontal(pl.col(REFERENCE).is_not_null()))
    if known.is_empty():
        refuse("no row has reference log-probs", file="scores", fix="score these pairs")
    lost = len(rows) - len(known)
    note = f"{lost:,} row(s) not trained on: their pair has no reference log-probs"
    return known, (note,) if lost else ()


def check_reference_scores(
    scores: pl.DataFrame,
    made: Provenance | None,
    settings: TrainSettings,
    pairs: pl.DataFrame,
    reference: str,
) -> None:
    """Refuse reference log-probs of other tokens, texts or weights than this training's.

    A pair without any is refused unless it was scored as TRL cuts: then it does not fit. A user's
    own table, which has no provenance, is taken at its word.

    Raises:
        InputError: they do not fit, or the loss has no reference.
    """
    if not settings.in_dpo_trainer:
        refuse(f"the loss {settings.loss} has no reference", fix="leave --scores out")
    raise_any(schema.faults(scores, schema.SCORES, "scores"))
    missing = scores["ref_a_logps"].is_null() | scores["ref_b_logps"].is_null()
    known = scores.filter(~missing)["pair_id"].cast(pl.String).implode()
    without = ~pairs["pair_id"].cast(pl.String).is_in(known)
    faults = []
    again = "score again with --reference and --truncate keep-start"
    as_trl_cuts = made is not None and made.settings.get("truncate") == "keep-start"
    if without.any() and not as_trl_cuts:
        problem = f"{without.sum():,} pair(s) have no reference log-probs there"
        faults.append(
            Fault(problem, "scores", found=pairs["pair_id"][without.arg_true()[0]], fix=again)
        )
    if made is not None:
        from denoise.scorers.models import resolve

        wanted = {"tokenize": "trl-dpo", "max_length": settings.max_length}
        faults += [
            Fault(
                f"made with {name} {made.settings.get(name)}, the training has {value}",
                "scores",
                fix=f"score again with --{name.replace('_', '-')} {value}",
            )
            for name, value in wanted.items()
            if made.settings.get(name) != value
        ]
        if made.inputs.get("pairs") != schema.pairs_hash(pairs):
            # By pair_id they might seem to fit, and a and b be the other way round.
            fix = "give --pairs, the data that were scored"
            faults.append(Fault("made for other pairs than these", "scores", fix=fix))
        if made.inputs.get("reference") != resolve(reference).identity:
            fix = "give --reference as for `denoise score`"
            faults.append(Fault(f"made with another reference than {reference}", "scores", fix=fix))
    raise_any(faults)
