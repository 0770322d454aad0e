"""A way to a server that drops connections in the middle, or lets only so many uploads through."""

import contextlib
import random
import socket
import threading
from typing import Any

CHUNK = 1 << 14


class Proxy:
    """Passes bytes on.

    drop: the chance that a chunk of either direction is cut somewhere and the connection closed.
    uploads: how many PUT requests pass before all further ones wait; None for all. `held` is set
    while one waits, and `released` lets them go on.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.drop = 0.0
        self.uploads: int | None = None
        self.held, self.released = threading.Event(), threading.Event()
        self.dropped = 0
        self.environment: dict[str, str] = {}
        self._draw = random.Random(0)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(self.server)
            for source, target, up in ((client, there, True), (there, client, False)):
                threading.Thread(target=self._pass, args=(source, target, up), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        try:
            while data := source.recv(CHUNK):
                if up and data.startswith(b"PUT ") and self._must_wait():
                    self.held.set()
                    self.released.wait()
                cut = self._cut(len(data))
                target.sendall(data[:cut])
                if cut is not None:
                    break
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _must_wait(self) -> bool:
        with self._lock:
            if self.uploads is None:
                return False
            self.uploads -= 1
            return self.uploads < 0

    def _cut(self, length: int) -> int | None:
        with self._lock:
            if self._draw.random() >= self.drop:
                return None
            self.dropped += 1
            return self._draw.randrange(length)
