"""A real vLLM server on this machine, and a proxy before it that fails in the ways servers do."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

KEY = "key-for-the-tests-57c1"
DROP = "drop"
MAX_MODEL_LEN = 512
START_SECONDS = 150


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def vllm_server(model: Path, names: list[str], log: Path) -> Iterator[int]:
    """Serve a model under these names with `KEY` for its key; the block gets the port."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", *names, "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", str(MAX_MODEL_LEN), "--kv-cache-memory-bytes", str(1 << 28)),
        *("--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_API_KEY": KEY}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, env=env, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _await_health(process, port, log)
        yield port
    finally:
        with suppress(ProcessLookupError):  # it ended by itself, as one that cannot start does
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_health(process: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"vLLM did not start:\n{log.read_text()[-3000:]}")


class Request(NamedTuple):
    """What the proxy was asked; `number` counts completions from 0, and is -1 for the others."""

    number: int
    path: str
    body: dict[str, Any] | None


class Answer(NamedTuple):
    status: int
    content: object = None
    headers: tuple[tuple[str, str], ...] = ()


class Proxy:
    """Passes requests on to a server, but for those that `fault` answers or drops.

    `edit` may change what the server answers. `requests` and `most_at_once` say what came.
    """

    def __init__(
        self,
        target: int,
        fault: Callable[[Request], Answer | str | None] = lambda _: None,
        edit: Callable[[Request, Any], Any] = lambda _, content: content,
    ) -> None:
        self.target, self.fault, self.edit = target, fault, edit
        self.port = free_port()
        self.requests: list[Request] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def completions(self) -> list[Request]:
        return [request for request in self.requests if request.number >= 0]

    def start(self) -> None:
        """Listen, also anew, on the one port."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):  # HTTP/1.0: a connection an answer
            def do_HEAD(self) -> None:
                proxy._handle(self, None)

            def do_GET(self) -> None:
                proxy._handle(self, None)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                proxy._handle(self, json.loads(self.rfile.read(length)))

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:  # the client went away, as tests have it
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def settle(self) -> None:
        """Wait until nothing more arrives of what a client sent and then gave up."""
        came = -1
        while came != (came := len(self.requests)):
            time.sleep(1.0)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Listen no more: connections are refused."""
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> None:
        with self._lock:
            number = len(self.completions) if handler.path.endswith("/completions") else -1
            request = Request(number, handler.path, body)
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            answer = self.fault(request)
            if answer is None:
                answer = self._passed_on(request, handler)
        finally:
            with self._lock:
                self._now -= 1
        if isinstance(answer, Answer):
            handler.send_response(answer.status)
            for header in answer.headers:
                handler.send_header(*header)
            handler.end_headers()
            raw = isinstance(answer.content, bytes)
            if handler.command != "HEAD":
                handler.wfile.write(answer.content if raw else json.dumps(answer.content).encode())

    def _passed_on(self, request: Request, handler: BaseHTTPRequestHandler) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        headers = {"Authorization": handler.headers.get("Authorization", "")}
        if request.body is None:
            connection.request("GET", request.path, headers=headers)
        else:
            headers["Content-Type"] = "application/json"
            connection.request("POST", request.path, json.dumps(request.body), headers)
        response = connection.getresponse()
        content = json.loads(response.read())
        connection.close()
        if response.status == 200:
            content = self.edit(request, content)
        return Answer(response.status, content)
