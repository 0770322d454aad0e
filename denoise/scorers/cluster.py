"""Scoring on a Ray cluster: a model a worker, and lots of pairs that go to whoever is free.

Ray Data's actor pools do the work: a worker that dies is started again and its lots are repeated.
Lots are those that one machine would make of the job, so that transformers gives equal numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from denoise.cluster import Workers, got, session
from denoise.errors import DenoiseError, RunError
from denoise.scorers import Scored, batching
from denoise.scorers.models import ModelSource, resolve
from denoise.scorers.settings import ScoreSettings
from denoise.tokenise import TokenPair

ENGINE_LOT = 256
"""Pairs that vLLM is given at once: enough under way for its batches to be full."""

BLOCKS = 1000
"""Blocks that a job is cut into at most: what is repeated where a worker dies."""


class ClusterScorer:
    """Scores with a pool of workers, each with the backend of the settings."""

    def __init__(self, source: ModelSource, settings: ScoreSettings, role: str) -> None:
        # Workers stand in other directories.
        given = Path(source.given).expanduser()
        there = str(given.absolute()) if given.exists() else source.given
        self.source, self.role = replace(source, given=there), role
        self.workers: Workers = settings.cluster
        self.settings = replace(settings, cluster=None)
        self.opened = ExitStack()
        self.ray = self.opened.enter_context(session(self.workers.address))

    def prepare(self, pairs: Sequence[TokenPair]) -> tuple[str, ...]:
        """Have a worker load the model and say what it thinks of the job.

        Raises:
            InputError: the model cannot score these pairs.
            RunError: the cluster lacks what a worker needs.
        """
        self.count, self.resources = self.workers.settled(self.ray, self.settings.gpus)
        self.job = summary(pairs)
        prepared = self.ray.remote(_prepared).options(**self.resources)
        given = (self.source, self.settings, self.role, self.job)
        return got(self.ray, prepared.remote(*given))

    def score(self, pairs: Sequence[TokenPair], rows: np.ndarray) -> Iterator[Scored]:
        """The lots as they finish, the longest pairs first.

        Raises:
            RunError: a worker failed, or workers keep dying.
        """
        from ray.data import ActorPoolStrategy, DataContext, from_arrow

        context = DataContext.get_current()
        context.enable_progress_bars = context.enable_operator_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        lots = self._lots(pairs, rows)
        per_block = -(-len(lots) // BLOCKS)
        blocks = [
            _table(pairs, lots[first : first + per_block])
            for first in range(0, len(lots), per_block)
        ]
        done = from_arrow(blocks).map_batches(
            _Worker,
            fn_constructor_args=(self.source, self.settings, self.role, self.job),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=self.count),
            **self.resources,
        )
        try:
            for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    yield Scored(np.array(row["rows"]), np.array(row["values"]).reshape(-1, 2))
        except self.ray.exceptions.RayError as error:
            raise cause(error) from None

    def _lots(self, pairs: Sequence[TokenPair], rows: np.ndarray) -> list[np.ndarray]:
        if self.settings.engine == "vllm":
            from denoise.scorers.vllm import by_prompt

            order = np.array(by_prompt(pairs, rows))
            return [order[i : i + ENGINE_LOT] for i in range(0, len(order), ENGINE_LOT)]
        from denoise.scorers.transformers import BATCH_TOKENS

        kind = "cuda" if self.resources.get("num_gpus") else "cpu"
        budget = self.settings.batch_tokens or BATCH_TOKENS[kind]
        lots = batching.lots(pairs, budget, self.settings.is_reward)
        return list(batching.with_some_of(lots, rows))

    def close(self) -> None:
        """Let go of the cluster."""
        self.opened.close()


class _Worker:
    """A scorer on a worker, and the lots it is given."""

    def __init__(
        self,
        source: ModelSource,
        settings: ScoreSettings,
        role: str,
        job: Sequence[TokenPair],
    ) -> None:
        self.scorer = _open(source, settings, role)
        self.scorer.prepare(job)

    def __call__(self, lot: pa.Table) -> pa.Table:
        rows, values = [], []
        for row in lot.to_pylist():
            pairs = [TokenPair(**pair) for pair in row["pairs"]]
            found = np.full((len(pairs), 2), np.nan)
            for here, scores in self.scorer.score(pairs, np.arange(len(pairs))):
                found[here] = scores
            rows.append(row["rows"])
            values.append(found.ravel().tolist())
        return pa.table({"rows": rows, "values": values})


def _open(source: ModelSource, settings: ScoreSettings, role: str) -> Any:
    """The scorer of the model on this node.

    Raises:
        RunError: the model of that name here is another one.
    """
    from denoise.scorers.backends import open_scorer

    here = resolve(source.given, weights=settings.backend != "server")
    if here.identity != source.identity:
        raise RunError(
            f"{source.name} on a node of the cluster is not the model that the command was given: "
            "its files differ; put the same ones in the same place on every node"
        )
    return open_scorer(here, settings, role)


def _prepared(
    source: ModelSource, settings: ScoreSettings, role: str, job: Sequence[TokenPair]
) -> tuple[str, ...]:
    scorer = _open(source, settings, role)
    try:
        return scorer.prepare(job)
    finally:
        scorer.close()


def summary(pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """A few pairs that stand for the job where a scorer prepares for it.

    The longest, one of median length, in the middle as in the whole, and the highest id.
    """
    by_length = sorted(pairs, key=lambda pair: pair.length)
    longest = max(pairs, key=lambda pair: pair.longest)
    top = [batching.highest_id(pairs)]
    short = TokenPair(top, top, top)
    return [short, short, by_length[len(pairs) // 2], longest, by_length[-1]]


def _table(pairs: Sequence[TokenPair], lots: Sequence[np.ndarray]) -> pa.Table:
    """A row a lot: numbers of its pairs, and their ids."""
    ids = pa.list_(pa.int32())
    of_sides = [(name, ids) for name in ("prompt", "a", "b")]
    pair = pa.struct([*of_sides, ("a_skip", pa.int32()), ("b_skip", pa.int32())])
    of_lots = [[pairs[row]._asdict() for row in lot] for lot in lots]
    return pa.table(
        {
            "rows": pa.array([lot.tolist() for lot in lots], pa.list_(pa.int64())),
            "pairs": pa.array(of_lots, pa.list_(pair)),
        }
    )


def cause(error: BaseException) -> DenoiseError:
    """The error of denoise that lies behind one of Ray's, or what Ray says in a line."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DenoiseError):
            return seen
        inner = getattr(seen, "cause", None)
        seen = inner if isinstance(inner, BaseException) and inner is not seen else seen.__cause__
    line = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return RunError(f"scoring on the cluster failed: {line[0]}")
