"""The server scorer against a real vLLM on the CPU: its numbers, what it refuses, the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import polars as pl
import pytest
from commands import interruptible
from served import KEY, MAX_MODEL_LEN, Answer, Proxy, free_port
from server_cases import planned, scorer, token_pairs
from small_pairs import make

from denoise.cli import main
from denoise.dataset import write_dataset
from denoise.errors import InputError, RunError
from denoise.scorers.models import resolve
from denoise.scorers.settings import ScoreSettings
from denoise.stages.score import plan, run
from denoise.tokenise import TokenPair

pytestmark = pytest.mark.usefixtures("quick")

NATS_A_TOKEN = 5e-5
LOGPS = ("policy_a_logps", "policy_b_logps")


def off_a_token(mine: pl.DataFrame, theirs: pl.DataFrame) -> float:
    assert mine["pair_id"].equals(theirs["pair_id"])
    tokens = mine.select("a_tokens", "b_tokens").to_numpy()
    return (np.abs(mine.select(LOGPS).to_numpy() - theirs.select(LOGPS).to_numpy()) / tokens).max()


# The numbers


@pytest.mark.parametrize("tokenize", ["trl-dpo", "trl-cpo"])
def test_the_servers_log_probs_are_those_of_transformers(tokenize, vllm, policy_dir):
    data = make(40)
    url = f"http://127.0.0.1:{vllm}"
    served = run(planned(data, policy_dir, url, tokenize=tokenize))
    local = plan(data, str(policy_dir), None, ScoreSettings(tokenize=tokenize), lambda _: None)
    assert off_a_token(served.scores, run(local).scores) < NATS_A_TOKEN
    assert served.provenance.settings["backend"] == "server"


def test_skipped_tokens_and_those_without_context_are_left_out(vllm, policy_dir):
    """No prompt, one token skipped of b, and both: as the transformers scorer reads them."""
    from denoise.scorers.transformers import TransformersScorer

    a, b = [5, 9, 300, 7], [11, 12, 13]
    pairs = [
        TokenPair([], a, b),
        TokenPair([1, 8], a, b, 0, 1),
        TokenPair([], a, b, 2, 1),
        TokenPair([1], [4], [5]),
    ]
    local = TransformersScorer(resolve(str(policy_dir))).score_batch(pairs)
    remote = scorer(policy_dir, f"http://127.0.0.1:{vllm}/v1/")
    remote.prepare(pairs)
    finished = list(remote.score(pairs, np.arange(4)))
    rows, values = (np.concatenate(parts) for parts in zip(*finished, strict=True))
    assert sorted(rows) == [0, 1, 2, 3]
    np.testing.assert_allclose(values, local[rows], atol=4 * NATS_A_TOKEN)


# The work


def test_pairs_are_drawn_as_they_are_sent_and_never_more_at_once_than_asked(proxy, policy_dir):
    class Watched(list):
        highest = 0

        def __getitem__(self, row):
            self.highest = max(self.highest, row)
            return super().__getitem__(row)

    proxy.fault = lambda _: time.sleep(0.02)  # long enough for requests to meet
    pairs = Watched(token_pairs(80))
    remote = scorer(policy_dir, proxy.url, concurrency=3)
    remote.prepare(pairs)
    seen = []
    for rows, _ in remote.score(pairs, np.arange(80)):
        seen += rows.tolist()
        if len(seen) < 50:
            assert pairs.highest < len(proxy.completions) + 3
    assert sorted(seen) == list(range(80))
    assert proxy.most_at_once == 3


def test_closing_early_cancels_what_is_under_way(proxy, policy_dir):
    pairs = token_pairs(50)
    remote = scorer(policy_dir, proxy.url, concurrency=4)
    remote.prepare(pairs)
    release = threading.Event()
    proxy.fault = lambda request: release.wait(30) and None if request.number > 8 else None
    finished = remote.score(pairs, np.arange(50))
    next(finished)
    deadline = time.monotonic() + 20
    while len(proxy.completions) < 9 + 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    start = time.monotonic()
    finished.close()
    assert time.monotonic() - start < 2
    release.set()
    time.sleep(0.3)
    assert len(proxy.completions) == 9 + 4  # those under way, and none after them
    assert not [thread for thread in threading.enumerate() if "portal" in thread.name]


def test_it_runs_inside_a_running_event_loop_as_in_a_notebook(vllm, policy_dir):
    import asyncio

    async def cell() -> int:
        return len(run(planned(make(3), policy_dir, f"http://127.0.0.1:{vllm}")).scores)

    assert asyncio.run(cell()) == 3


# What is refused before the work


def test_a_model_that_is_not_served_is_refused_with_what_is(vllm, policy_dir, reference_dir):
    url = f"http://127.0.0.1:{vllm}"
    with pytest.raises(InputError) as error:
        run(planned(make(2), reference_dir, url))
    message = str(error.value)
    assert f"does not serve --policy '{reference_dir}' but '{policy_dir}'" in message
    assert f"vllm serve {reference_dir}" in message


def test_a_model_may_be_served_under_another_name(proxy, policy_dir, twin_dir):
    """Its `root` is what the server loaded; that the id differs is the server's affair."""

    def edit(request, answer):
        if request.path == "/v1/models":
            answer["data"] = [entry for entry in answer["data"] if entry["id"] == str(twin_dir)]
        return answer

    proxy.edit = edit
    assert len(run(planned(make(3), policy_dir, proxy.url)).scores) == 3
    assert {request.body["model"] for request in proxy.completions} == {str(twin_dir)}


def test_a_served_adapter_is_refused(proxy, policy_dir):
    def edit(request, answer):
        if request.path == "/v1/models":
            answer["data"][0]["parent"] = "base"
        return answer

    proxy.edit = edit
    with pytest.raises(InputError, match="as a LoRA adapter"):
        run(planned(make(2), policy_dir, proxy.url))


def test_sequences_longer_than_the_server_takes_are_refused(vllm, policy_dir):
    url = f"http://127.0.0.1:{vllm}"
    remote = scorer(policy_dir, url)
    longest = TokenPair([1], [5] * (MAX_MODEL_LEN - 2), [5, 2])  # and one that is generated
    remote.prepare([longest])
    ((_, values),) = remote.score([longest], np.arange(1))
    assert np.isfinite(values).all()
    longer = TokenPair([1], [5] * (MAX_MODEL_LEN - 1), [5, 2])
    with pytest.raises(InputError, match=r"--max-length 511, or .* --max-model-len 513"):
        remote.prepare([longer])


def test_a_server_without_prompt_logprobs_is_refused(proxy, policy_dir):
    def edit(_, answer):
        for choice in answer.get("choices", ()):
            del choice["prompt_logprobs"]
        return answer

    proxy.edit = edit
    with pytest.raises(InputError, match="gives no prompt_logprobs with its completions"):
        run(planned(make(2), policy_dir, proxy.url))


def test_what_is_no_such_server_is_refused(proxy, policy_dir):
    with pytest.raises(InputError, match=r"404 \(Not Found\); check the base url"):
        run(planned(make(2), policy_dir, f"{proxy.url}/elsewhere"))
    proxy.fault = lambda _: Answer(200, {"data": [{"name": "x"}]})
    with pytest.raises(RunError, match="nonsense to a first try: no list of models"):
        run(planned(make(2), policy_dir, proxy.url))


def test_a_wrong_or_missing_key_names_the_option_and_no_key(vllm, policy_dir, monkeypatch):
    url = f"http://127.0.0.1:{vllm}"
    work = plan(
        make(2), str(policy_dir), None, ScoreSettings("server", base_url=url), lambda _: None
    )
    with pytest.raises(InputError, match=r"401 \(Unauthorized\).*--api-key-env"):
        run(work)
    monkeypatch.setenv("SERVER_KEY", "a-wrong-key")
    with pytest.raises(InputError, match="the key in SERVER_KEY") as error:
        run(planned(make(2), policy_dir, url))
    assert "a-wrong-key" not in str(error.value)


def test_a_server_that_repeats_the_key_does_not_make_it_shown(proxy, policy_dir):
    proxy.fault = lambda _: Answer(403, {"error": {"message": f"{KEY} may not do that"}})
    with pytest.raises(InputError, match=r"403 \(\*\*\* may not do that\)") as error:
        run(planned(make(2), policy_dir, proxy.url))
    assert KEY not in str(error.value)


def test_a_key_in_nonsense_is_not_shown(proxy, policy_dir):
    """As from a server that sends back what it was sent, cut off within the key or not."""
    for padding in range(0, 200, 25):
        echo = {"headers": {"x": "-" * padding, "authorization": f"Bearer {KEY}"}}
        proxy.fault = lambda _, echo=echo: Answer(200, echo)
        with pytest.raises(RunError, match="nonsense") as error:
            run(planned(make(1), policy_dir, proxy.url))
        assert KEY[:6] not in str(error.value)


def test_a_key_that_no_header_can_hold_is_refused_unseen(policy_dir, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "two\nlines")
    with pytest.raises(InputError, match="SERVER_KEY holds is no API key") as error:
        run(planned(make(2), policy_dir, f"http://127.0.0.1:{free_port()}"))
    assert "lines" not in str(error.value)


def test_credentials_in_the_url_are_used_and_not_shown(proxy, policy_dir):
    said = []
    url = proxy.url.replace("http://", "http://user:secret@")
    proxy.fault = lambda _: Answer(400, {"error": {"message": "no"}})
    work = planned(make(2), policy_dir, url)
    with pytest.raises(InputError) as error:
        run(work, announce=said.append)
    assert "secret" not in str(error.value) + repr(work.settings) + work.provenance.to_json()
    assert f"{proxy.url}/v1 answers 400 (no)" in str(error.value)


def test_wrong_server_settings_are_all_named_at_once(monkeypatch):
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(InputError) as error:
        ScoreSettings(
            backend="server",
            dtype="float32",
            reference_base_url="user:secret@host",
            api_key_env="SERVER_KEY",
            concurrency=0,
        )
    options = ("--base-url", "--reference-base-url", "--api-key-env", "--concurrency", "--dtype")
    assert len(error.value.faults) == len(options)
    assert all(option in str(error.value) for option in options)
    assert "secret" not in str(error.value)
    with pytest.raises(InputError) as error:
        ScoreSettings(base_url="http://h", reference_base_url="http://h", concurrency=4)
    assert str(error.value).count("means nothing to --backend") == 3


def test_the_urls_are_no_part_of_what_the_numbers_depend_on(policy_dir):
    one, two = (planned(make(2), policy_dir, f"http://127.0.0.1:{port}") for port in (1, 2))
    assert one.provenance == two.provenance
    with pytest.raises(InputError, match="means nothing without --reference"):
        planned(make(2), policy_dir, "http://127.0.0.1:1", reference_base_url="http://127.0.0.1:2")


# The command


def test_the_command_keeps_the_policys_part_until_the_reference_is_served(
    proxy, policy_dir, twin_dir, tmp_path, monkeypatch, capsys
):
    def only_the_policy(request, answer):
        if request.path == "/v1/models":
            answer["data"] = [entry for entry in answer["data"] if entry["id"] == str(policy_dir)]
            answer["data"][0]["root"] = str(policy_dir)
        return answer

    write_dataset(make(20), tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    def command(status: int) -> tuple[str, str]:
        words = ["score", "data", "--backend", "server", "--base-url", proxy.url]
        words += ["--policy", str(policy_dir), "--reference", str(twin_dir)]
        with pytest.raises(SystemExit) as end:
            main([*words, "--api-key-env", "SERVER_KEY", "--concurrency", "4"])
        said = capsys.readouterr()
        assert end.value.code == status, said
        assert KEY not in said.out + said.err
        return said.out, said.err

    proxy.edit = only_the_policy
    _, refused = command(2)
    assert len(refused.splitlines()) == 1
    assert f"does not serve --reference '{twin_dir}'" in refused
    assert "restart the server with the reference" in refused
    parts = tmp_path / "scores.parquet.parts"
    assert sum(len(pl.read_parquet(p)) for p in parts.glob("policy-*.parquet")) == 20

    proxy.edit = lambda _, answer: answer
    proxy.requests.clear()
    assert "wrote scores.parquet: 20 pairs" in command(0)[0]
    assert {request.body["model"] for request in proxy.completions} == {str(twin_dir)}
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    for side in "ab":  # the twin's weights are the policy's
        columns = (scores[f"{role}_{side}_logps"].to_numpy() for role in ("policy", "ref"))
        np.testing.assert_allclose(*columns, atol=1e-4)
    assert KEY.encode() not in (tmp_path / "scores.parquet").read_bytes()
    assert not parts.exists()


@pytest.mark.parametrize(("hanging", "kept"), [(-1, 0), (2, 1)], ids=["models", "a pair"])
def test_an_interrupt_ends_the_command_at_once(hanging, kept, proxy, policy_dir, tmp_path):
    """While it waits for the list of models, or for the second pair (number 0 is the probe)."""
    write_dataset(make(5), tmp_path / "data")
    release, asked = threading.Event(), threading.Event()

    def hang(request):
        if request.number == hanging:
            asked.set()
            release.wait(60)

    proxy.fault = hang
    process = interruptible(
        [
            *(sys.executable, "-m", "denoise", "score", "data", "--backend", "server"),
            *("--policy", policy_dir, "--base-url", proxy.url),
            *("--api-key-env", "SERVER_KEY", "--concurrency", "1"),
        ],
        tmp_path,
    )
    try:
        assert asked.wait(60)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        release.set()
        process.kill()
        process.wait()
    parts = (tmp_path / "scores.parquet.parts").glob("*.parquet")
    assert sum(len(pl.read_parquet(part)) for part in parts) == kept


def test_a_dry_run_measures_the_servers_rate(vllm, policy_dir, capsys):
    from denoise.cli.score import _dry_run

    _dry_run(planned(make(5), policy_dir, f"http://127.0.0.1:{vllm}"))
    assert "tokens/s here" in capsys.readouterr().out


# What is fetched from the hub


def test_of_a_hub_id_no_weights_are_fetched_and_the_snapshot_identifies_it(policy_dir, tmp_path):
    """A small hub of our own; the hub's address is read on import, so in a process of its own."""
    sha = "5" * 40
    files = sorted(path.name for path in policy_dir.iterdir())
    assert "model.safetensors" in files

    def hub(request):
        if request.path.startswith("/api/models/org/tiny/tree/"):
            oid = {"type": "file", "oid": "0" * 40, "size": 1}
            return Answer(200, [{**oid, "path": name} for name in files])
        if request.path.startswith("/api/models/org/tiny"):
            siblings = [{"rfilename": name} for name in files]
            return Answer(200, {"id": "org/tiny", "sha": sha, "siblings": siblings})
        content = (policy_dir / request.path.rpartition("/")[2]).read_bytes()
        headers = {"X-Repo-Commit": sha, "ETag": f'"{request.path}"'}
        headers["Content-Length"] = str(len(content))
        return Answer(200, content, tuple(headers.items()))

    program = (
        "from denoise.scorers.models import resolve\n"
        "for weights in (False, True):\n"
        "    found = resolve('org/tiny', weights=weights)\n"
        "    print(found.identity, (found.directory / 'model.safetensors').exists())\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    with Proxy(0, hub) as made:
        env["HF_ENDPOINT"] = made.url
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"{sha} False", f"{sha} True"], done.stderr
