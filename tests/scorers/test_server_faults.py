"""The server scorer against servers that fail: a real vLLM behind a proxy that spoils its work."""

from __future__ import annotations

import threading
import time

import numpy as np
import polars as pl
import pytest
from served import DROP, Answer, Proxy
from server_cases import planned, scorer, token_pairs
from small_pairs import make

from denoise.errors import RunError
from denoise.scorers import endpoint
from denoise.stages.score import run

pytestmark = pytest.mark.usefixtures("quick")


# Outages


def test_failing_busy_and_dropping_servers_are_asked_again(proxy, policy_dir):
    faults = {
        3: Answer(500, {"error": {"message": "out of luck"}}),
        5: Answer(503, b"<html>no upstream</html>"),
        7: DROP,
        8: Answer(429, {}, (("Retry-After", "1"),)),
    }
    proxy.fault = lambda request: faults.get(request.number)
    data = make(12)
    start = time.monotonic()
    served = run(planned(data, policy_dir, proxy.url, concurrency=2)).scores
    assert time.monotonic() - start >= 1  # as Retry-After asked
    assert len(proxy.completions) == 1 + 12 + len(faults)
    proxy.fault = lambda _: None
    assert served.equals(run(planned(data, policy_dir, proxy.url)).scores)


def test_a_server_that_goes_away_and_comes_back_is_waited_for(proxy, policy_dir):
    def go_away() -> None:
        proxy.stop()
        time.sleep(1.0)
        proxy.start()

    def fault(request):
        if request.number == 10:
            threading.Thread(target=go_away).start()
            return DROP
        return None

    proxy.fault = fault
    said = []
    served = run(planned(make(40), policy_dir, proxy.url, concurrency=4), announce=said.append)
    assert len(served.scores) == 40
    waiting = [line for line in said if "waiting up to 10 minutes" in line]
    assert len(waiting) == 1 and f"{proxy.url}/v1 does not answer (" in waiting[0]


def test_a_server_that_takes_requests_and_never_answers_is_given_up(policy_dir, monkeypatch):
    for name, seconds in (("LISTING_SECONDS", 0.2), ("WORTH_A_WORD", 0.1), ("PATIENCE", 0.5)):
        monkeypatch.setattr(endpoint, name, seconds)
    said = []
    release = threading.Event()
    with Proxy(0, lambda _: release.wait(30) and DROP) as hanging:
        work = planned(make(2), policy_dir, hanging.url)
        with pytest.raises(RunError, match=r"does not answer \(ReadTimeout\), for"):
            run(work, announce=said.append)
        release.set()
    assert len(said) == 1 and "waiting up to" in said[0]


def test_after_the_patience_the_finished_part_is_kept_and_the_same_command_continues(
    proxy, policy_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(endpoint, "PATIENCE", 0.5)
    down = Answer(503, {"error": {"message": "the engine is dead"}})
    proxy.fault = lambda request: down if request.number > 20 else None
    work = planned(make(40), policy_dir, proxy.url, concurrency=4)
    with pytest.raises(RunError) as error:
        run(work, tmp_path / "parts")
    message = str(error.value)
    assert message.startswith(f"{proxy.url}/v1 answers 503 (the engine is dead), for ")
    assert message.endswith("what is finished is kept, and the same command continues")
    kept = sum(len(pl.read_parquet(p)) for p in (tmp_path / "parts").glob("*.parquet"))
    assert kept == 20
    proxy.settle()
    proxy.fault = lambda _: None
    proxy.requests.clear()
    assert len(run(work, tmp_path / "parts").scores) == 40
    assert len(proxy.completions) == 1 + 40 - kept


def test_one_pair_that_always_fails_ends_the_run_though_others_are_answered(
    proxy, policy_dir, monkeypatch
):
    monkeypatch.setattr(endpoint, "PATIENCE", 0.5)
    pairs = token_pairs(300)
    bad = [*pairs[7].prompt, *pairs[7].a]
    proxy.fault = lambda r: Answer(500, "no") if r.body and r.body["prompt"][0] == bad else None
    remote = scorer(policy_dir, proxy.url, concurrency=2)
    remote.prepare(pairs)
    with pytest.raises(RunError, match="answers 500"):
        for _ in remote.score(pairs, np.arange(300)):
            pass


# Nonsense


def _with(change):
    def edit(_, answer):
        change(answer["choices"][1]["prompt_logprobs"])
        return answer

    return edit


def _logprob(value):
    return _with(lambda given: next(iter(given[-1].values())).update(logprob=value))


NONSENSE = {
    "one choice": (lambda _, answer: {"choices": answer["choices"][:1]}, "1 choices"),
    "swapped choices": (lambda _, answer: {"choices": answer["choices"][::-1]}, "2 choices"),
    "no choices": (lambda _, answer: {"result": "fine"}, "no choices but"),
    "a list": (lambda _, answer: [1], "no choices but"),
    "no prompt": (lambda _, a: {"choices": [{"index": 0}, {"index": 1}]}, "None"),
    "a list cut short": (_with(lambda given: given.pop()), "entries"),
    "another token": (_with(lambda given: given.append({"7": given.pop()})), "no log-prob of"),
    "a shifted list": (_with(lambda given: given.insert(0, given.pop())), "prompt_logprobs is not"),
    "a null": (_with(lambda given: given.append(given.pop() and None)), "'?None"),
    "not a number": (_logprob(float("nan")), "nan"),
    "text": (_logprob("-1.5"), "-1.5"),
    "a probability": (_logprob(0.5), "0.5"),
    "minus infinity": (_logprob(float("-inf")), "inf"),
    "vLLM's minus infinity": (_logprob(-9999.0), "-9999"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_names_the_pair_and_what_was_found(name, proxy, policy_dir, tmp_path):
    change, found = NONSENSE[name]
    proxy.edit = lambda request, answer: change(request, answer) if request.number == 6 else answer
    work = planned(make(10), policy_dir, proxy.url, concurrency=1)
    with pytest.raises(RunError, match=rf"pair 5 \(from 0\): .*/v1 answers nonsense.*{found}"):
        run(work, tmp_path / "parts")
    assert sum(len(pl.read_parquet(p)) for p in (tmp_path / "parts").glob("*.parquet")) == 5


def test_an_answer_that_is_no_json_is_shown_plain_and_short(proxy, policy_dir):
    page = b"<html>\x1b[31m" + b"gateway " * 10_000
    proxy.fault = lambda request: Answer(200, page) if request.number == 2 else None
    with pytest.raises(RunError, match=r"pair 1 .* no JSON but <html>") as error:
        run(planned(make(5), policy_dir, proxy.url, concurrency=1))
    assert len(str(error.value)) < 400 and "\x1b" not in str(error.value)
