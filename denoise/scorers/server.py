"""The server scorer: token ids to a running `vllm serve`, log-probs of the prompt's tokens back."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import anyio
import httpx2
import numpy as np
from anyio.from_thread import start_blocking_portal

from denoise.errors import MAX_SHOWN, InputError, RunError, refuse
from denoise.plain import plain, quote
from denoise.scorers import BLINK, Scored
from denoise.scorers.endpoint import Endpoint, Refusal
from denoise.scorers.models import ModelSource
from denoise.scorers.settings import CONCURRENCY, ScoreSettings
from denoise.tokenise import Ids, TokenPair

T = TypeVar("T")

SLACK = 1e-3
"""Nats by which rounding may lift a log-prob above 0."""

MINUS_INFINITY = -9999.0
"""What vLLM writes for a log-prob of minus infinity, which JSON cannot hold."""


class ServerScorer:
    """Scores on a vLLM server, through its OpenAI-compatible completions.

    One request a pair: prompt + a and prompt + b as token ids, `prompt_logprobs` 0, which is the
    log-prob of each token of theirs and of no other. `role` is `policy` or `ref`.

    Raises:
        InputError: the key in the environment cannot be sent.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: ScoreSettings,
        role: str = "policy",
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        own_url = settings.reference_base_url if role == "ref" else None
        self.source = source
        self.option = "--reference" if role == "ref" else "--policy"
        self.one_after_the_other = role == "ref" and own_url is None
        self.concurrency = settings.concurrency or CONCURRENCY
        self.model = ""
        self.endpoint = Endpoint(
            own_url or settings.base_url or "",
            key_variable=settings.api_key_env,
            connections=self.concurrency,
            announce=announce,
        )

    def prepare(self, pairs: Sequence[TokenPair]) -> tuple[str, ...]:
        """Find the model among those that are served, and try the shortest pair.

        Raises:
            InputError: the server does not serve the model, is set up for shorter sequences, gives
                no log-probs of prompts, or refuses to answer at all.
            RunError: it does not answer, or answers nonsense.
        """
        with start_blocking_portal() as portal:
            job = portal.start_task_soon(self._prepare, pairs)
            while not job.done():
                futures.wait([job], timeout=BLINK)
            job.result()
        return (
            f"{self.endpoint.shown} serves it; that the weights there are these is not checked",
        )

    def score(self, pairs: Sequence[TokenPair], rows: np.ndarray) -> Iterator[Scored]:
        """Score these rows as the server finishes them; closing the iterator cancels the requests.

        Raises:
            RunError: the server was away for too long, refused a pair or answered nonsense.
        """
        done: SimpleQueue[tuple[int, tuple[float, float]] | None] = SimpleQueue()
        # The requests go on in a thread of their own while the caller keeps what is finished.
        with start_blocking_portal() as portal:
            job = portal.start_task_soon(self._score_all, pairs, rows, done.put)
            job.add_done_callback(lambda _: done.put(None))
            ended = False
            while not ended:
                group = [_first(done)]
                while not done.empty():
                    group.append(done.get())
                ended = group[-1] is None
                if finished := [one for one in group if one]:
                    numbers, values = zip(*finished, strict=True)
                    yield Scored(np.array(numbers), np.array(values, dtype=np.float64))
            job.result()

    def close(self) -> None:
        """Nothing is held: the model is the server's."""

    async def _prepare(self, pairs: Sequence[TokenPair]) -> None:
        shown = self.endpoint.shown
        async with self.endpoint.open() as client:
            try:
                served = _served(await self.endpoint.ask(client, "/models"))
                entry = self._choose(served)
                self.model = entry["id"]
                _check_length(pairs, entry.get("max_model_len"), shown)
                shortest = min(pairs, key=lambda pair: pair.length)
                answer = await self.endpoint.ask(client, "/completions", self._request(shortest))
                if not gives_prompt_logprobs(answer):
                    fix = "denoise needs a vLLM server, and not one of long ago"
                    refuse(f"{shown} gives no prompt_logprobs with its completions", fix=fix)
                read_answer(answer, shortest)
            except Refusal as refusal:
                raise InputError(str(refusal)) from None
            except ValueError as error:
                found = self.endpoint.plain(str(error))
                raise RunError(f"{shown} answers nonsense to a first try: {found}") from None

    def _choose(self, served: list[dict[str, Any]]) -> dict[str, Any]:
        """The entry of the model that is meant: by its id, else by what it was loaded from."""
        names = _names(self.source)
        for field in ("id", "root"):
            for entry in served:
                if _path(entry.get(field)) not in names:
                    continue
                if entry.get("parent"):
                    refuse(
                        f"{self.endpoint.shown} serves {quote(entry['id'])} as a LoRA adapter, "
                        "whose prompt log-probs vLLM has got wrong",
                        fix="merge it into its base, serve that, and give the merged model",
                    )
                return entry
        wanted = self.source.given or self.source.name
        fix = f"serve it: vllm serve {wanted} (its id there, or --served-model-name, is the name "
        fix += f"that {self.option} gives)"
        if self.one_after_the_other:
            fix = "the policy's part is kept: restart the server with the reference (vllm serve "
            fix += f"{wanted}) and repeat the command, or give --reference-base-url"
        others = ", ".join(quote(entry["id"], 200) for entry in served[:MAX_SHOWN]) or "no model"
        others += f" and {len(served) - MAX_SHOWN} more" if len(served) > MAX_SHOWN else ""
        refuse(
            f"{self.endpoint.shown} does not serve {self.option} {quote(wanted, 200)} but {others}",
            fix=fix,
        )

    async def _score_all(
        self,
        pairs: Sequence[TokenPair],
        rows: np.ndarray,
        done: Callable[[tuple[int, tuple[float, float]]], None],
    ) -> None:
        todo = iter(rows.tolist())

        async def work_off(client: httpx2.AsyncClient) -> None:
            for row in todo:  # all workers draw from the one iterator
                done((row, await self._score_pair(client, pairs[row], row)))

        try:
            async with self.endpoint.open() as client, anyio.create_task_group() as workers:
                for _ in range(min(self.concurrency, len(rows))):
                    workers.start_soon(work_off, client)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _score_pair(
        self, client: httpx2.AsyncClient, pair: TokenPair, row: int
    ) -> tuple[float, float]:
        try:
            answer = await self.endpoint.ask(client, "/completions", self._request(pair))
            return read_answer(answer, pair)
        except Refusal as refusal:
            raise RunError(f"pair {row} (from 0): {refusal}") from None
        except ValueError as error:
            found = f"{self.endpoint.shown} answers nonsense: {self.endpoint.plain(str(error))}"
            raise RunError(f"pair {row} (from 0): {found}") from None

    def _request(self, pair: TokenPair) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": [list(pair.sequence(side)[0]) for side in range(2)],
            "prompt_logprobs": 0,
            "max_tokens": 1,  # vLLM generates one token at least
            "temperature": 0,
        }


def _first(done: SimpleQueue[T]) -> T:
    while True:
        try:
            return done.get(timeout=BLINK)
        except Empty:
            continue


def read_answer(answer: object, pair: TokenPair) -> tuple[float, float]:
    """Sums of response log-probs in nats (a, b) from the completions of prompt + a and prompt + b.

    Raises:
        ValueError: it is not the answer to that question; the words say where and what was found.
    """
    choices = _choices(answer)
    if [choice.get("index") for choice in choices] != [0, 1]:
        raise ValueError(f"{len(choices)} choices where 0 and 1 were asked for")
    sums = []
    for side, choice in enumerate(choices):
        try:
            sums.append(_sum(choice.get("prompt_logprobs"), *pair.sequence(side)))
        except ValueError as error:
            raise ValueError(f"response {'ab'[side]}: {error}") from None
    return sums[0], sums[1]


def _sum(logprobs: object, ids: Ids, first: int) -> float:
    n = len(ids)
    if not isinstance(logprobs, list) or len(logprobs) != n or logprobs[0] is not None:
        found = f"{len(logprobs)} entries" if isinstance(logprobs, list) else _found(logprobs)
        raise ValueError(f"prompt_logprobs is not null and {n - 1} log-probs but {found}")
    return math.fsum(
        _logprob(logprobs[position], ids[position], position) for position in range(first, n)
    )


def _logprob(entry: object, token: int, position: int) -> float:
    found = entry.get(str(token)) if isinstance(entry, dict) else None
    logprob = found.get("logprob") if isinstance(found, dict) else None
    if type(logprob) not in (int, float) or not MINUS_INFINITY < logprob <= SLACK:
        raise ValueError(f"no log-prob of token {token} at {position} but {_found(entry)}")
    return float(logprob)


def gives_prompt_logprobs(answer: object) -> bool:
    """Whether the server knows the option: one that does not passes over it in silence."""
    return any(choice.get("prompt_logprobs") is not None for choice in _choices(answer))


def _choices(answer: object) -> list[dict[str, Any]]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise ValueError(f"no choices but {_found(answer)}")
    return choices


def _found(value: object) -> str:
    # Longer than what is shown of it, so that a key in it is whole when it is taken out.
    return plain(repr(value), 2000)


def _served(answer: object) -> list[dict[str, Any]]:
    entries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in entries
    ):
        raise ValueError(f"no list of models but {_found(answer)}")
    return entries


def _names(source: ModelSource) -> set[str]:
    """Under which names the model may be served: as it was given, or its place on this disk."""
    place = source.directory / source.gguf if source.gguf else source.directory
    return {_path(source.given or source.name), _path(str(place)), _path(str(place.resolve()))}


def _path(name: object) -> str:
    return os.path.normpath(name) if isinstance(name, str) and name else ""


def _check_length(pairs: Sequence[TokenPair], limit: object, shown: str) -> None:
    longest = max(pair.longest for pair in pairs)
    if isinstance(limit, int) and longest + 1 > limit:
        refuse(
            f"the longest sequence has {longest} tokens, and {shown} takes {limit} with the one "
            "that it generates",
            fix=f"score with --max-length {limit - 1}, or serve with --max-model-len {longest + 1}",
        )
