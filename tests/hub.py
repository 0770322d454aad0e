"""A small hub on this machine's loopback that keeps what it is sent."""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

REPO = "team/weighted"


class Hub(ThreadingHTTPServer):
    """The few requests of the hub that an upload makes; `files` and `private` are what it keeps."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {".gitattributes": b""}
        self.large: dict[str, bytes] = {}
        self.private: bool | None = None
        self.commits = 0
        self.forbidden = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def entries(self, folder: str = "") -> list[dict]:
        """What lies directly in a folder, as the hub describes it."""
        start = f"{folder}/" if folder else ""
        inside = [path for path in sorted(self.files) if path.startswith(start)]
        names = dict.fromkeys(path.removeprefix(start).partition("/")[0] for path in inside)
        kinds = {True: "file", False: "directory"}
        return [
            {"type": kinds[path in self.files], "path": path, "oid": "0" * 40,
             "size": len(self.files.get(path, b""))}
            for path in (start + name for name in names)
        ]  # fmt: skip

    def below(self, folder: str) -> list[dict]:
        """What lies in a folder and in the folders in it."""
        here = self.entries(folder)
        inside = [each["path"] for each in here if each["type"] == "directory"]
        return here + [each for path in inside for each in self.below(path)]


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def send(self, body: object, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("ETag", '"0"')
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if "/resolve/" in path:
            name = path.partition("/resolve/")[2].partition("/")[2]
            if name not in hub.files:
                return self.send(b"", 404)
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            some = slice(int(first), int(last) + 1) if last else slice(None)
            return self.send(hub.files[name][some], 206 if last else 200)
        if "/tree/" in path:
            folder = path.partition("/tree/")[2].partition("/")[2]
            found = hub.below(folder) if "recursive=true" in self.path else hub.entries(folder)
            return self.send(found) if found else self.send({"error": "no such folder"}, 404)
        if hub.private is None:
            return self.send({"error": "no such repository"}, 404)
        return self.send({"id": REPO, "sha": "1" * 40, "private": hub.private, "siblings": []})

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[self.path.rpartition("/")[2]] = content
        self.send({})

    def do_POST(self) -> None:
        hub = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if hub.forbidden:
            return self.send({"error": f"no rights for {self.headers['Authorization']}"}, 403)
        if self.path == "/api/repos/create":
            exists = hub.private is not None
            if not exists:
                asked = json.loads(body)  # the hub's library says it in one way or the other
                hub.private = asked.get("visibility") == "private" or bool(asked.get("private"))
            where = {"url": f"{hub.address}/datasets/{REPO}", "name": REPO}
            return self.send(
                {**where, "error": "exists"} if exists else where, 409 if exists else 200
            )
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            for file in files:
                mode = "lfs" if file["path"].startswith("data/") else "regular"
                file |= {"uploadMode": mode, "shouldIgnore": False}
            return self.send({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.address}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self.send({"transfer": "basic", "objects": objects})
        if "/paths-info/" in self.path:
            wanted = parse_qs(body.decode())["paths"]
            folders = {path.rpartition("/")[0] for path in wanted}
            found = [each for folder in folders for each in hub.entries(folder)]
            return self.send([each for each in found if each["path"] in wanted])
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    hub.files[entry["value"]["path"]] = content
                if entry["key"] == "lfsFile":
                    hub.files[entry["value"]["path"]] = hub.large[entry["value"]["oid"]]
            hub.commits += 1
            url = f"{hub.address}/datasets/{REPO}/commit/{'1' * 40}"
            return self.send({"commitUrl": url, "commitOid": "1" * 40})
        return self.send({"errors": [], "warnings": []})

    def log_message(self, *args: object) -> None:
        """Keeps the test's output clean."""
