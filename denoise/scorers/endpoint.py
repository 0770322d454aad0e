"""An OpenAI-compatible server: requests that outlive its outages, and its refusals in its words."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import anyio
import httpx2

from denoise.errors import RunError, refuse
from denoise.plain import plain, without_credentials

PATIENCE = 600.0
"""Seconds for which one request may go on failing: a server that is restarted loads its model."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
WORTH_A_WORD = 5.0
"""Seconds: one failure that came sooner than this is passed over in silence."""

ANSWER_SECONDS, LISTING_SECONDS = 600.0, 30.0
"""How long an answer may take, a busy server queues what it is sent; and a list of its models."""

_SHOWN = 200


class Refusal(Exception):
    """The server understood and will not: what it said, with its status and how to mend it."""


class _Failure(NamedTuple):
    """Worth another try: why, and the seconds that the server asked for until then."""

    reason: str
    asked_for: float = 0.0


class Endpoint:
    """A server's address with its key; `announce` is told, once an outage, that it is waited for.

    Raises:
        InputError: the key in the environment cannot be sent in a header.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key_variable: str | None = None,
        connections: int = 1,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._url = re.sub(r"(/v1)?/*$", "", base_url.rstrip("/")) + "/v1"
        self.shown = without_credentials(self._url)
        self._key_variable = key_variable
        self._key = _key(key_variable) if key_variable else ""
        self._connections = connections
        self._announce = announce
        self._waiting = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx2.AsyncClient]:
        """The connections, for the length of a block."""
        async with httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(LISTING_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=self._connections),
        ) as client:
            yield client

    async def ask(self, client: httpx2.AsyncClient, path: str, body: object = None) -> Any:
        """What the server answers to a GET, or to a POST of `body`, as JSON.

        Busy (429), failing (5xx), silent and unreachable servers are asked again for `PATIENCE`.

        Raises:
            Refusal: the answer is another status than success.
            RunError: the patience is over.
            ValueError: the answer is no JSON.
        """
        since, failures = 0.0, 0
        while True:
            asked_at = time.monotonic()
            answer = await self._once(client, path, body)
            if isinstance(answer, httpx2.Response):
                break
            now = time.monotonic()
            failures += 1
            since = now if failures == 1 else since
            left = PATIENCE - (now - since)
            if left <= 0:
                raise RunError(
                    f"{self.shown} {answer.reason}, for {_duration(PATIENCE)}; what is finished is "
                    "kept, and the same command continues"
                )
            if (failures > 1 or now - asked_at > WORTH_A_WORD) and not self._waiting:
                self._waiting = True
                wait_for = f"waiting up to {_duration(PATIENCE)} for it"
                self._announce(f"{self.shown} {answer.reason}; {wait_for}")
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(failures - 1, 10))
            wait *= random.uniform(0.5, 1.0)  # so that the waiting requests do not come all at once
            await anyio.sleep(min(max(wait, answer.asked_for), left))
        if failures:
            self._waiting = False
        if answer.status_code != 200:
            raise Refusal(f"{self.shown} answers {self._status(answer)}; {self._mend(answer)}")
        try:
            return answer.json()
        except (ValueError, RecursionError):
            raise ValueError(f"no JSON but {answer.text[:2000]}") from None

    async def _once(
        self, client: httpx2.AsyncClient, path: str, body: object
    ) -> httpx2.Response | _Failure:
        patient = httpx2.Timeout(LISTING_SECONDS, read=ANSWER_SECONDS, pool=None)
        try:
            if body is None:
                answer = await client.get(self._url + path)
            else:
                answer = await client.post(self._url + path, json=body, timeout=patient)
        except httpx2.RequestError as error:
            words = ": ".join(filter(None, (type(error).__name__, self.plain(str(error)))))
            return _Failure(f"does not answer ({words})")
        if answer.status_code != 429 and answer.status_code < 500:
            return answer
        asked_for = _retry_after(answer.headers.get("Retry-After", ""))
        return _Failure(f"answers {self._status(answer)}", asked_for)

    def _status(self, answer: httpx2.Response) -> str:
        return f"{answer.status_code} ({self.plain(_words(answer) or answer.reason_phrase)})"

    def _mend(self, answer: httpx2.Response) -> str:
        if answer.status_code in (401, 403):
            if self._key_variable:
                return f"is the key in {self._key_variable} (--api-key-env) the server's?"
            return "name the environment variable that holds its key with --api-key-env"
        if answer.status_code == 404 or answer.is_redirect:
            return "check the base url, and which model is served"
        return "see the server's own log"

    def plain(self, text: str) -> str:
        """The server's words on one line, cut short, without the key that they may repeat."""
        text = text[: 64 * _SHOWN]
        text = text.replace(self._key, "***") if self._key else text
        return plain(without_credentials(text), _SHOWN)


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        refuse(f"the environment variable {plain(variable, 60)} is not set", fix="export it first")
    if not (key.isascii() and key.isprintable()):
        refuse(f"what the environment variable {plain(variable, 60)} holds is no API key")
    return key


def _words(answer: httpx2.Response) -> str:
    """The message in an error's body: OpenAI's and vLLM's form, FastAPI's, or the text as it is."""
    try:
        content = answer.json()
    except (ValueError, RecursionError):
        return answer.text
    for name in ("error", "message", "detail"):
        if isinstance(content, dict) and name in content:
            content = content[name]
    return content if isinstance(content, str) else str(content)


def _retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for: a number or a date; 0 where it asks nothing."""
    if text.strip().isdecimal():
        return float(text[:9])
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
