"""Ray: the cluster that is there, or one of this machine alone, which listens on loopback only."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from denoise.errors import Fault, RunError, raise_any, refuse

ENGINES = ("local", "ray")

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Of Ray, where it serves this machine alone: what it does on a laptop anyway, addresses of
127.0.0.1 only, here too."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Nothing is told to Ray's makers, and an error is told once, by us."""


def check_engine(engine: str, address: str | None) -> None:
    """Refuse an unknown engine, an address without Ray, and Ray where it is not installed."""
    if engine not in ENGINES:
        refuse("--engine is unknown", found=engine, fix=f"give {' or '.join(ENGINES)}")
    if engine != "ray" and address is not None:
        refuse("--ray-address means nothing without --engine ray")
    if engine == "ray" and find_spec("ray") is None:
        refuse("Ray is not installed", fix="pip install 'denoise-prefs[ray]'")


@contextmanager
def session(address: str | None = None) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address`, or to one made for the occasion.

    A connection that is there already is used, and stays. One made here listens on loopback only
    and is gone at the end.

    Raises:
        RunError: there is no cluster at the address.
    """
    for name, value in (QUIET if address else QUIET | LOOPBACK).items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    if address is not None:
        _check_listening(address)
    options = {"include_dashboard": False} if address is None else {}
    try:
        with _speechless():
            ray.init(address or "local", logging_level="ERROR", log_to_driver=False, **options)
    except (ConnectionError, RuntimeError) as error:
        raise RunError(f"Ray cannot be reached{_at(address)}: {_reason(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _speechless() -> Iterator[None]:
    """No line on standard error from Ray's C++, which tells there that it was told to be quiet."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def connected(workers: Workers | None) -> Iterator[None]:
    """One `session` for all that is done inside; nothing where there are no workers."""
    if workers is None:
        yield
        return
    with session(workers.address):
        yield


def _at(address: str | None) -> str:
    return f" at {address}" if address else ""


def _reason(error: BaseException) -> str:
    """Why, in a line: that a token is wanted, which Ray says far down, or its last line."""
    seen: BaseException | None = error
    while seen is not None:
        if "InvalidAuthToken" in str(seen):
            return (
                "it wants the cluster's token; put it in ~/.ray/auth_token (`ray get-auth-token` "
                "prints it on the head) and export RAY_AUTH_MODE=token"
            )
        seen = seen.__cause__
    return (str(error).strip().splitlines() or [""])[-1]


def _check_listening(address: str) -> None:
    """Say at once that nobody answers, for which Ray itself takes minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit()) or "/" in host:
        return  # "auto", or ray://…: Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise RunError(
            f"no Ray cluster answers at {address}: {error.strerror or error}; `ray start --head` "
            "starts one and tells its address"
        ) from error


@dataclass(frozen=True)
class Workers:
    """A pool of workers that score: `count` of them, each with so many cores and GPUs.

    What is not given is settled by what the cluster has: where it has GPUs, as many for a worker as
    the model is spread over, else all cores of a node; and as many workers as there is room for.

    Raises:
        InputError: a number is out of range.
    """

    address: str | None = None
    count: int | None = None
    cpus: int | None = None
    gpus: int | None = None

    def __post_init__(self) -> None:
        given = (("--workers", self.count, 1), ("--worker-cpus", self.cpus, 1))
        raise_any(
            Fault(f"{option} must be at least {least}", found=number)
            for option, number, least in (*given, ("--worker-gpus", self.gpus, 0))
            if number is not None and number < least
        )

    def settled(self, ray: Any, spread: int) -> tuple[int, dict[str, int]]:
        """The number of workers, and what Ray is to reserve for each.

        Args:
            spread: GPUs that the settings spread one engine over.

        Raises:
            RunError: no node has that much.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        has_gpus = any(node.get("GPU", 0) for node in nodes)
        gpus = self.gpus if self.gpus is not None else spread if has_gpus else 0
        cores = [int(node.get("CPU", 0)) for node in nodes]
        cpus = self.cpus or (1 if gpus else max(1, min(c for c in cores if c) if any(cores) else 1))
        room = sum(
            min(
                int(node.get("CPU", 0)) // cpus,
                int(node.get("GPU", 0)) // gpus if gpus else 1 << 30,
            )
            for node in nodes
        )
        if room < 1:
            raise RunError(
                f"no node of the cluster has the {cpus} cores and {gpus} GPUs of a worker; lower "
                "--worker-cpus or --worker-gpus"
            )
        return min(self.count or room, room), {"num_cpus": cpus, "num_gpus": gpus}


def got(ray: Any, ref: Any) -> Any:
    """What a task came to, its own error as it was raised there."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
