"""`denoise score`: log-probs or rewards of both responses of each pair."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from denoise.cli import app as shared

if TYPE_CHECKING:
    import numpy as np

    from denoise.stages.score import Plan


SAMPLE = 32
"""Pairs that a dry run scores first; then twice as many, until they take `MEASURED` seconds:
vLLM is at its rate only with many under way."""

MEASURED = 3.0


@shared.app.command()
def score(
    source: shared.Source,
    policy: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="A hub id, a directory, a PEFT adapter's directory, or a .gguf file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, shared.path_option(help="The table to write.")] = Path("scores.parquet"),
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="What the policy was trained from (DPO, IPO)."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="auto (vLLM where it is and a GPU is, else transformers), transformers, vllm, "
            "server; reward where MODEL is a reward model."
        ),
    ] = "auto",
    tokenize: Annotated[
        str | None,
        typer.Option(help="Whose token ids: trl-dpo unless told, or trl-cpo (CPO and SimPO)."),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt + response.")] = 1024,
    truncate: Annotated[
        str, typer.Option(help="An over-long response: none skips the pair, keep-start cuts it.")
    ] = "none",
    dtype: Annotated[
        str,
        typer.Option(help="auto (float32 on the CPU, else the checkpoint's), float32, bfloat16."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    batch_tokens: Annotated[
        int | None, typer.Option(help="Padded tokens in a batch; by the device where not given.")
    ] = None,
    tensor_parallel: Annotated[int, typer.Option(help="vllm: GPUs that share a layer.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(help="vllm: GPUs in a row.")] = 1,
    data_parallel: Annotated[int, typer.Option(help="vllm: copies of the model.")] = 1,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="vllm: its share of the memory; 0.85 on a GPU.")
    ] = None,
    engine_arg: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="vllm: any other engine argument.")
    ] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(help="Score the first N pairs only.")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Score part I of N (from 0), for array jobs.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where `vllm serve` runs (--backend server).")
    ] = None,
    reference_base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the reference is served, if elsewhere.")
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The environment variable that holds the server's key."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Pairs that the server is sent at once (32).")
    ] = None,
    engine: shared.Engine = "local",
    ray_address: shared.RayAddress = None,
    workers: shared.WorkerCount = None,
    worker_cpus: shared.WorkerCpus = None,
    worker_gpus: shared.WorkerGpus = None,
    map_: shared.Map = (),
    aspect: shared.Aspect = "overall",
    split: shared.Split = None,
    texts: shared.Texts = None,
) -> None:
    """Score both responses of each pair with policy and reference, or with a reward model."""
    from denoise import tables
    from denoise.cli.console import next_step, say
    from denoise.cluster import connected
    from denoise.errors import naming_files
    from denoise.scores import score_file
    from denoise.stages import score as stage

    settings = stage.ScoreSettings(
        backend=backend,
        tokenize=tokenize,
        max_length=max_length,
        truncate=truncate,
        dtype=dtype,
        batch_tokens=batch_tokens,
        limit=limit,
        shard=_shard(shard),
        device=device,
        trust_remote_code=trust_remote_code,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        data_parallel=data_parallel,
        gpu_memory_utilization=gpu_memory_utilization,
        engine_args=shared.key_values("--engine-arg", engine_arg),
        base_url=base_url,
        reference_base_url=reference_base_url,
        api_key_env=api_key_env,
        concurrency=concurrency,
        cluster=shared.cluster(engine, ray_address, workers, worker_cpus, worker_gpus),
    )
    path = score_file(out, settings.shard)
    shared.claim(path)
    tables.check_table_out(path, "score")
    data = shared.load(source, map_, aspect, split, texts)
    with connected(settings.cluster):
        with naming_files(pairs=source):
            planned = stage.plan(data, policy, reference, settings, say)
        for note in planned.notes:
            say(note)
        if dry_run:
            _dry_run(planned)
            return
        result = stage.score_to_file(planned, path, announce=say, progress=True)
    if result is None:
        say(f"{path} is there already, from the same inputs and settings")
    else:
        say(f"wrote {path}: {len(result.scores):,} pairs, {len(result.skipped):,} skipped")
    loss = [] if settings.is_reward else ["--loss", "dpo" if reference else "simpo"]
    options = shared.import_words(map_, aspect, split, texts)
    next_step("denoise", "em", source, *options, "--scores", out, *loss, "--out", "em")


def _shard(text: str | None) -> tuple[int, int] | None:
    from denoise.errors import refuse

    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        refuse("--shard is not I/N", found=text, fix="for instance --shard 0/4")
    return int(index), int(count)


def _samples(count: int) -> Iterator[np.ndarray]:
    """Rows to measure with, other ones each time: a cache holds none of them."""
    import numpy as np

    order, start, size = np.random.default_rng(0).permutation(count), 0, SAMPLE
    while start == 0 or start + size <= count:
        yield order[start : start + size]
        start, size = start + size, 2 * size


def _dry_run(planned: Plan) -> None:
    import numpy as np

    from denoise.cli.console import say
    from denoise.scorers.backends import open_scorer

    say(f"{len(planned.pairs):,} pairs, {planned.tokens:,} tokens with each prompt once")
    say(f"{len(planned.skipped):,} pairs would be skipped")
    if not planned.pairs:
        return
    scorer = open_scorer(planned.policy, planned.settings, announce=say)
    try:
        scorer.prepare(planned.pairs)
        for rows in _samples(len(planned.pairs)):
            sample = [planned.pairs[row] for row in rows]
            start = time.perf_counter()
            for _finished in scorer.score(sample, np.arange(len(sample))):
                pass
            seconds = time.perf_counter() - start
            rate = sum(p.length for p in sample) / seconds
            if seconds > MEASURED:
                break
    finally:
        scorer.close()
    seconds = (2 if planned.reference else 1) * planned.tokens / rate
    time_needed = f"{seconds:,.0f} seconds" if seconds < 90 else f"{seconds / 60:,.0f} minutes"
    which = "policy and reference" if planned.reference else "the policy"
    say(f"about {rate:,.0f} tokens/s here, so {time_needed} for {which}")
