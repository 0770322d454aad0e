"""Which scorer a job gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from denoise.cluster import got, session
from denoise.errors import refuse
from denoise.scorers import Scorer
from denoise.scorers.models import ModelSource
from denoise.scorers.settings import ScoreSettings


def settle(settings: ScoreSettings) -> ScoreSettings:
    """The settings with what `auto` means here: it is part of what the numbers depend on.

    vLLM where it is installed and there is a GPU, unless an option of transformers is given, else
    transformers; float32 on the CPU, else the checkpoint's own.

    Raises:
        InputError: vLLM is asked for and not installed, or there is no such device.
    """
    if settings.engine == "server":
        return settings
    if settings.cluster is not None:
        return _settled_there(settings)
    from denoise.scorers.transformers import pick_device, pick_dtype

    has_vllm = find_spec("vllm") is not None
    engine = settings.engine
    if engine is None:
        by_hand = settings.device != "auto" or settings.batch_tokens is not None
        on_gpu = has_vllm and not by_hand and pick_device("auto") != "cpu"
        engine = "vllm" if on_gpu else "transformers"
    if engine == "vllm" and not has_vllm:
        fix = "pip install 'denoise-prefs[vllm]', or choose a backend of transformers"
        refuse("vLLM is not installed", fix=fix)
    backend = f"reward-{engine}" if settings.is_reward else engine
    device = settings.device if engine == "transformers" else "auto"
    return replace(settings, backend=backend, dtype=pick_dtype(settings.dtype, device))


def _settled_there(settings: ScoreSettings) -> ScoreSettings:
    """What `settle` comes to where a worker is."""
    cluster = settings.cluster
    assert cluster is not None
    with session(cluster.address) as ray:
        _, resources = cluster.settled(ray, settings.gpus)
        there = ray.remote(settle).options(**resources)
        found = got(ray, there.remote(replace(settings, cluster=None)))
    return replace(found, cluster=cluster)


def open_scorer(
    source: ModelSource,
    settings: ScoreSettings,
    role: str = "policy",
    announce: Callable[[str], None] = lambda _: None,
    logs: Path | None = None,
) -> Scorer:
    """The scorer of a backend for a model.

    `role` is `policy` or `ref`; a server's outages are told to `announce`; what an engine prints is
    kept in `logs`.
    """
    if settings.cluster is not None:
        from denoise.scorers.cluster import ClusterScorer

        return ClusterScorer(source, settings, role)
    if settings.engine == "server":
        from denoise.scorers.server import ServerScorer

        return ServerScorer(source, settings, role, announce)
    if settings.engine == "vllm":
        from denoise.scorers.vllm import VllmScorer

        return VllmScorer(source, settings, role, logs)
    if settings.is_reward:
        from denoise.scorers.reward import RewardScorer as Backend
    else:
        from denoise.scorers.transformers import TransformersScorer as Backend

    return Backend(
        source,
        dtype=settings.dtype,
        device=settings.device,
        batch_tokens=settings.batch_tokens,
        trust_remote_code=settings.trust_remote_code,
    )
