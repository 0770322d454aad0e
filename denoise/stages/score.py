"""Scoring: pairs in, log-probs of both responses under policy and reference, or rewards, out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from denoise import places, schema, tables
from denoise.cluster import connected
from denoise.dataset import Dataset
from denoise.errors import RunError, raise_any, refuse
from denoise.locks import locked
from denoise.parts import Parts, remove
from denoise.places import Place
from denoise.plain import without_credentials
from denoise.progress import scoring_progress, waiting
from denoise.scorers.settings import ScoreSettings
from denoise.scores import SKIPPED_SCHEMA, Scores, write_scores
from denoise.tables import Provenance
from denoise.tokenise import Skip, TokenPair, is_wrapped, tokenise

if TYPE_CHECKING:
    from denoise.scorers import Scorer
    from denoise.scorers.models import ModelSource

KEEP_SECONDS = 10.0
"""How much finished work a kill may cost."""

_ROWS = 4096


@dataclass(frozen=True)
class Plan:
    """What a scoring run would do: `pairs` are the token ids of the rows that are scored."""

    ids: list[str]
    pairs: list[TokenPair]
    skipped: pl.DataFrame
    provenance: Provenance
    policy: ModelSource
    reference: ModelSource | None
    settings: ScoreSettings
    warnings: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: pairs that are skipped, by reason, and the mend."""
        reasons = self.skipped["reason"].value_counts(sort=True).rows()
        said = [f"{count:,} pair(s) not scored: {reason}" for reason, count in reasons]
        said = [*self.warnings, *said]
        if reasons and self.settings.truncate == "none":
            cut = "" if self.settings.is_reward else "; --truncate keep-start cuts as TRL does"
            said.append(f"--max-length N raises the limit{cut}")
        if self.reference is None and not self.settings.is_reward:
            said.append("no --reference: the scores serve SimPO and CPO margins, not DPO and IPO")
            if self.settings.tokenize == "trl-dpo":
                said.append("--tokenize trl-cpo gives the ids of TRL's SimPO and CPO trainers")
        return tuple(said)

    @property
    def tokens(self) -> int:
        """Tokens in all rows, prompts counted once a pair."""
        return sum(p.length for p in self.pairs)


def score(
    data: Dataset,
    *,
    policy: str,
    reference: str | None = None,
    work: Place | None = None,
    announce: Callable[[str], None] = lambda _: None,
    progress: bool = False,
    **options: Any,
) -> Scores:
    """Log-probs of both responses of each pair under the policy and the reference, or rewards.

    With `backend="reward"` the policy is a reward model, and there is no reference. A model is a
    hub id, a directory, a PEFT adapter's directory, or a `.gguf` file. Policy and reference are
    loaded one after the other, never both. With `work`, finished batches are kept in that
    directory, and a repeated call continues from them; the caller removes it. The other options
    are those of `ScoreSettings`.

    Raises:
        InputError: labels instead of pairs, no such model or broken weights, or finished work of
            other settings.
        RunError: a pair does not fit into memory, or a score is not finite.
    """
    settings = ScoreSettings(**options)
    with connected(settings.cluster):
        planned = plan(data, policy, reference, settings, announce)
        return run(planned, work, announce, progress)


def run(
    planned: Plan,
    work: Place | None = None,
    announce: Callable[[str], None] = lambda _: None,
    progress: bool = False,
) -> Scores:
    """Score what was planned; the arguments and errors are those of `score`."""
    parts = Parts(work, planned.provenance) if work else None
    frame = pl.DataFrame({"pair_id": planned.ids}, schema={"pair_id": pl.String})
    if planned.settings.is_reward:
        roles = [("reward", planned.policy, ("a_reward", "b_reward"))]
        tokens = [(len(p.prompt) + len(p.a), len(p.prompt) + len(p.b)) for p in planned.pairs]
    else:
        roles = [
            ("policy", planned.policy, ("policy_a_logps", "policy_b_logps")),
            ("ref", planned.reference, ("ref_a_logps", "ref_b_logps")),
        ]
        tokens = [(pair.a_tokens, pair.b_tokens) for pair in planned.pairs]
    for role, source, columns in roles:
        if source is None:
            values = np.full((len(planned.pairs), 2), np.nan)
        else:
            values = _score_model(planned, role, source, parts, announce, progress)
        for side, name in enumerate(columns):
            column = pl.Series(name, values[:, side], dtype=pl.Float64)
            frame = frame.with_columns(column.fill_nan(None))
    frame = frame.with_columns(
        pl.Series("a_tokens", [a for a, _ in tokens], dtype=pl.Int64),
        pl.Series("b_tokens", [b for _, b in tokens], dtype=pl.Int64),
    )
    return Scores(frame, planned.skipped, planned.provenance, planned.notes)


def plan(
    data: Dataset,
    policy: str,
    reference: str | None,
    settings: ScoreSettings,
    announce: Callable[[str], None],
) -> Plan:
    """Resolve the models, choose the pairs, and cut them into tokens."""
    pairs, votes = data.preferences()
    _check_contents(pairs)
    if settings.is_reward and reference:
        refuse("--reference means nothing to a reward model", fix="leave it out")
    if settings.reference_base_url and not reference:
        refuse("--reference-base-url means nothing without --reference")
    from denoise.scorers.backends import settle
    from denoise.scorers.models import load_tokenizer, resolve

    settings = settle(settings)
    local = settings.backend != "server"
    policy_source = resolve(policy, announce, weights=local)
    reference_source = resolve(reference, announce, weights=local) if reference else None
    tokenizer = load_tokenizer(policy_source, settings.trust_remote_code)
    if reference_source:
        other = load_tokenizer(reference_source, settings.trust_remote_code)
        if other.get_vocab() != tokenizer.get_vocab():
            refuse(
                f"{reference_source.name} and {policy_source.name} have different vocabularies",
                fix="the reference is the model that the policy was trained from",
            )
    provenance = _provenance(pairs, policy_source, reference_source, settings)
    chosen = pairs.head(settings.limit) if settings.limit else pairs
    if settings.shard:
        index, count = settings.shard
        chosen = chosen.gather_every(count, offset=index)
    ids, kept, skipped = _tokenise(chosen, tokenizer, settings)
    if not kept and not settings.shard:
        refuse(
            "no pair can be scored",
            found=skipped["reason"][0],
            fix="raise --max-length"
            + ("" if settings.is_reward else ", or cut long responses with --truncate keep-start"),
        )
    warnings = (*_ignored(pairs, votes), *_text_to_reward(pairs, tokenizer, settings))
    return Plan(ids, kept, skipped, provenance, policy_source, reference_source, settings, warnings)


def _check_contents(pairs: pl.DataFrame) -> None:
    """Refuse tables that are no pairs, or whose texts are partly messages."""
    raise_any(schema.faults(pairs, schema.PAIRS, "pairs"))
    contents = ("prompt", "response_a", "response_b")
    if len({schema.is_chat(pairs.schema[name]) for name in contents}) > 1:
        refuse(
            "some of prompt and responses are text and some are messages",
            file="pairs",
            found=", ".join(f"{name} {pairs.schema[name]}" for name in contents),
            fix="give all three in one form",
        )


def _ignored(pairs: pl.DataFrame, votes: pl.DataFrame) -> tuple[str, ...]:
    """Columns that TRL hands to the chat template, row by row, and this does not."""
    names = [n for n in ("tools", "chat_template_kwargs") if n in (*pairs.columns, *votes.columns)]
    if not names or not schema.is_chat(pairs.schema["prompt"]):
        return ()
    return (
        f"TRL gives {' and '.join(names)} to the chat template, denoise does not: these scores are "
        "of other tokens than the trainer's",
    )


def _text_to_reward(
    pairs: pl.DataFrame, tokenizer: object, settings: ScoreSettings
) -> tuple[str, ...]:
    """How a reward model, which was made for dialogues as a rule, is given texts."""
    chat = schema.is_chat(pairs.schema["prompt"])
    if chat or not settings.is_reward:
        return ()
    if is_wrapped(tokenizer, settings.tokenize, chat):
        return (
            "the data are text: each prompt is given to the chat template as one user turn, and "
            "each response as one assistant turn",
        )
    return (
        "the reward model's tokenizer has no chat template: prompt and response are given as one "
        "plain text",
    )


def _provenance(
    pairs: pl.DataFrame,
    policy: ModelSource,
    reference: ModelSource | None,
    settings: ScoreSettings,
) -> Provenance:
    inputs = {"pairs": schema.pairs_hash(pairs), "policy": policy.identity}
    if reference:
        inputs["reference"] = reference.identity
    if settings.limit or settings.shard:  # which pairs these are goes by their order
        inputs["order"] = schema.digest(*pairs["pair_id"].cast(pl.String)).hex()
    return Provenance(
        "score",
        inputs,
        {
            "policy": without_credentials(policy.name),
            "reference": without_credentials(reference.name) if reference else None,
            **settings.of_the_numbers(),
        },
    )


def _tokenise(
    pairs: pl.DataFrame, tokenizer: object, settings: ScoreSettings
) -> tuple[list[str], list[TokenPair], pl.DataFrame]:
    ids, kept, skipped = [], [], []
    columns = ("prompt", "response_a", "response_b")
    for batch in pairs.iter_slices(_ROWS):
        cut = tokenise(
            tokenizer,
            batch.select(columns).rows(),
            settings.tokenize,
            settings.max_length,
            settings.truncate == "keep-start",
        )
        for pair_id, pair in zip(batch["pair_id"].cast(pl.String), cut, strict=True):
            if isinstance(pair, Skip):
                skipped.append((pair_id, *pair))
            else:
                ids.append(pair_id)
                kept.append(pair)
    return ids, kept, pl.DataFrame(skipped, schema=SKIPPED_SCHEMA, orient="row")


def _score_model(
    planned: Plan,
    role: str,
    source: ModelSource,
    parts: Parts | None,
    announce: Callable[[str], None],
    progress: bool,
) -> np.ndarray:
    """Log-probs or rewards [pairs, 2] of one model, from finished parts where there are any."""
    pairs = planned.pairs
    logps = np.full((len(pairs), 2), np.nan)
    row_of = {pair_id: row for row, pair_id in enumerate(planned.ids)}
    for part in parts.read(role) if parts else ():
        logps[[row_of[i] for i in part["pair_id"]]] = part.select("a", "b").to_numpy()
    if len(pairs) == 0 or not np.isnan(logps).any():
        return logps
    todo = np.flatnonzero(np.isnan(logps).any(axis=1))
    from denoise.scorers.backends import open_scorer

    with ExitStack() as stack:
        with waiting(f"loading {source.name}", progress):
            scorer = open_scorer(
                source,
                planned.settings,
                role,
                announce,
                logs=parts.directory if parts and not places.is_remote(parts.directory) else None,
            )
            stack.callback(scorer.close)
            notes = scorer.prepare(pairs)
        for note in notes:
            announce(f"{source.name}: {note}")
        _run(scorer, role, source.name, planned, todo, logps, parts, progress)
    return logps


def _run(
    scorer: Scorer,
    role: str,
    name: str,
    planned: Plan,
    todo: np.ndarray,
    logps: np.ndarray,
    parts: Parts | None,
    progress: bool,
) -> None:
    """Score the rows `todo` into `logps`, and keep what is finished every `KEEP_SECONDS`."""
    pairs = planned.pairs
    lengths = np.array([pair.length for pair in pairs], dtype=np.int64)
    finished: list[np.ndarray] = []
    kept = time.monotonic()

    def keep() -> None:
        if parts and finished:
            rows = np.concatenate(finished)
            ids = [planned.ids[row] for row in rows]  # the pairs may come in another order
            a, b = logps[rows].T
            parts.add(role, pl.DataFrame({"pair_id": ids, "a": a, "b": b}))
            finished.clear()

    label = f"{role} {name}"
    with scoring_progress(label, len(todo), int(lengths[todo].sum()), progress) as update:
        try:
            for rows, values in scorer.score(pairs, todo):
                logps[rows] = _finite(values, name, rows, planned.ids)
                finished.append(rows)
                update(len(rows), int(lengths[rows].sum()))
                if time.monotonic() - kept > KEEP_SECONDS:
                    keep()
                    kept = time.monotonic()
        finally:
            keep()


def _finite(logps: np.ndarray, name: str, batch: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """The scores of a batch, all of them numbers.

    Raises:
        RunError: one is not finite: half precision overflowed, or the weights are broken.
    """
    wrong = ~np.isfinite(logps).all(axis=1)
    if wrong.any():
        first = ids[batch[np.flatnonzero(wrong)[0]]]
        raise RunError(
            f"{name}: the score of pair {first} is not finite; try --dtype float32, and check "
            "that the weights are whole"
        )
    return logps


def unfinished_work(path: Place) -> Place:
    """Where `score_to_file` keeps finished batches until the file is written."""
    return path.with_name(f"{path.name}.parts")


def score_to_file(
    planned: Plan,
    path: Place,
    announce: Callable[[str], None] = lambda _: None,
    progress: bool = False,
) -> Scores | None:
    """Score what was planned into a file; killed and called again, it continues.

    Finished batches are kept in a directory beside the file until it is written. Where the file is
    there already, whole and from the same inputs and settings, nothing is done: None.
    """
    with locked(path):
        return _to_file(planned, path, announce, progress)


def _to_file(
    planned: Plan, path: Place, announce: Callable[[str], None], progress: bool
) -> Scores | None:
    tables.check_table_out(path, "score")
    work = unfinished_work(path)
    made = tables.read_provenance(path) if path.exists() else None
    result = None
    if made is None or made.run_id != planned.provenance.run_id:
        result = run(planned, work, announce, progress)
        write_scores(result, path)
    kept = tables.read_manifest(work)
    if kept is not None and kept.run_id == planned.provenance.run_id:
        remove(work)
    return result
