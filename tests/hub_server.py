"""A small Hub on loopback, with its CDN on a second port: real HTTP, real ranges, and every way to fail."""

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "3fa9c1d2e4b5a6978877665544332211ffeeddcc"


@dataclass
class Repository:
    """A repository at one commit; `listed` overrides what the API says of its files.

    A data set's is known to the `Hub` under ``datasets/owner/name``.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    gated: bool = False
    private: bool = False
    listed: list[dict[str, Any]] | None = None
    tags: tuple[str, ...] = ("mamba2",)
    config: dict[str, Any] = field(default_factory=lambda: {"model_type": "granitemoehybrid"})
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What a server was asked: `server` is ``hub`` or ``cdn``."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """The state of both servers, changed by the tests while they run.

    Attributes
    ----------
    drop_after : dict
        File name to byte counts: each body is cut there, one count per request, until none is left.
    corrupt : dict
        File name to how many more times its first body byte is wrong.
    refuse : list of (status, headers)
        Answers given instead of file bodies, one per request, until none is left.
    stall : str
        ``api``, or the file whose body stops after `stall_after` bytes and stays open until the test ends.
    gate : Event
        Bodies of weights wait for it; set unless a test clears it.
    resumes : bool
        Whether ``Range`` is obeyed.
    slow_s : float
        How long 1 MiB takes on each connection.
    reset : bool
        Whether bodies that are cut end in a reset (RST) instead of an ordinary end (FIN).
    trickle : str
        The file whose body comes at 100 bytes a second.
    proposals : list
        The discussions of every repository, as the API lists them.
    """

    repositories: dict[str, Repository]
    token: str = "hf_right"
    requests: list[Request] = field(default_factory=list)
    drop_after: dict[str, list[int]] = field(default_factory=dict)
    corrupt: dict[str, int] = field(default_factory=dict)
    refuse: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    stall: str = ""
    stall_after: int = 1000
    gate: threading.Event = field(default_factory=threading.Event)
    resumes: bool = True
    login_page: bool = False
    slow_s: float = 0.0
    reset: bool = False
    trickle: str = ""
    proposals: list[dict[str, Any]] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    cdn: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def bodies(self, name: str) -> list[Request]:
        """The requests for that file which were answered with bytes, or should have been."""
        asked = [request for request in self.requests if request.method == "GET"]
        return [request for request in asked if request.path.endswith(f"/{name}")]


def listing(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """The API's list of files: Git LFS for the weights, plain blobs for the rest."""
    rows = []
    for name, data in files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        row: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
        if name.endswith(".safetensors"):
            row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        rows.append(row)
    return rows


def go_online(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let huggingface_hub ask, with a cache below `home`; it reads its variables when it is imported."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home.parent / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def make_old_folder(home: Path, name: str, files: dict[str, bytes], *, complete: bool = True) -> Path:
    """A model as version 0.1 left it."""
    folder = home / "models" / "m-hybrid-0123456789"
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    manifest = {"schema": "kl-lens/model/1", "id": name, "revision": COMMIT, "asked": "main"}
    text = json.dumps(manifest | {"complete": complete})
    (folder / "kl-lens-model.json").write_text(text, encoding="utf-8")
    (folder / ".lock").touch()
    return folder


def folder_files(folder: Path) -> dict[str, bytes]:
    """The files of a model folder, as a repository's."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextlib.contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Run both servers until the block ends."""
    hub = Hub(repositories)
    hub.gate.set()
    servers = [_Server(("127.0.0.1", 0), _handler(hub, name)) for name in ("hub", "cdn")]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    hub.cdn = hub.cdn.replace("127.0.0.1", "localhost")
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is what many tests are about; anything else is told as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(hub: Hub, server: str) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub, Handler.server_name = hub, server
    return Handler


def _facts(name: str, repository: Repository) -> dict[str, Any]:
    """What the API tells of a repository in a list."""
    return {
        "id": name,
        "downloads": 1200,
        "likes": 7,
        "private": repository.private,
        "gated": "auto" if repository.gated else False,
        "tags": ["safetensors", *repository.tags],
        "library_name": "transformers",
        "config": repository.config,
        "safetensors": {"total": 7_970_000, "parameters": {"BF16": 7_970_000}},
        "cardData": repository.card,
        "lastModified": "2026-05-04T03:02:01.000Z",
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    server_name: str

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.hub.requests.append(
            Request(self.server_name, self.command, path, {k.lower(): v for k, v in self.headers.items()})
        )
        with contextlib.suppress(ConnectionError):  # the client may leave in the middle
            if self.server_name == "cdn":
                self._cdn(path)
            elif self.hub.login_page:
                self._answer(
                    200, b"<html>Welcome to the hotel's network</html>", {"Content-Type": "text/html"}
                )
            elif path == "/api/models":
                self._search(parse_qs(address.query))
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
                self._facts(match[1])
            elif match := re.fullmatch(r"/api/(?:models/|(?=datasets/))(.+)/revision/(.+)", path):
                self._info(match[1], match[2])
            elif match := re.fullmatch(r"/api/models/(.+)/tree/([^/]+)", path):
                self._tree(match[1])
            elif re.fullmatch(r"/api/models/(.+)/discussions", path):
                self._json({"discussions": self.hub.proposals, "count": len(self.hub.proposals), "start": 0})
            elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(match[1], match[3])
            else:
                self._refuse(404, "RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(
            Request(self.server_name, "POST", path, {k.lower(): v for k, v in self.headers.items()})
        )
        if not self._token_is_right():
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repositories:
                self._answer(409, json.dumps({"url": f"{self.hub.url}/{name}"}).encode(), {})
                return
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repositories[name] = Repository({}, private=private)
            self._json({"url": f"{self.hub.url}/{name}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".bin") else "regular" for name in files}
            self._json({"files": [{"path": n, "uploadMode": modes[n], "shouldIgnore": False} for n in files]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{self.hub.cdn}/uploads/{each['oid']}"}}
            self._json({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self._commit(match[1], body)
        else:
            self._refuse(404, "RepoNotFound")

    def do_PUT(self) -> None:
        self.hub.uploads[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"", {})

    def _commit(self, name: str, body: bytes) -> None:
        files = self.hub.repositories[name].files
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if value.get("parentCommit") not in (None, self.hub.repositories[name].commit):
                self._refuse(412, "PreconditionFailed")
                return
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def log_message(self, *_: object) -> None:
        pass

    def _search(self, query: dict[str, list[str]]) -> None:
        words, author = query.get("search", [""])[0].lower(), query.get("author", [""])[0]
        rows = [
            _facts(name, repository)
            for name, repository in self.hub.repositories.items()
            if words in name.lower()
            and name.startswith(author)
            and not repository.private
            and not (repository.gated and query.get("gated") == ["false"])
            and set(query.get("filter", ())) <= {*repository.tags, "safetensors"}
        ]
        self._json(rows[: int(query["limit"][0])])

    def _facts(self, name: str) -> None:
        if (repository := self._open(name)) is not None:
            self._json(_facts(name, repository))

    def _info(self, name: str, revision: str) -> None:
        if self.hub.stall == "api":
            self.hub.over.wait(30)
            return
        repository = self._open(name)
        if repository is None:
            return
        if revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound")
            return
        siblings = repository.listed if repository.listed is not None else listing(repository.files)
        about = {"id": name.removeprefix("datasets/"), "sha": repository.commit, "siblings": siblings}
        self._json(_facts(name, repository) | about)

    def _tree(self, name: str) -> None:
        rows = listing(self.hub.repositories[name].files)
        self._json(
            [
                {"type": "file", "path": row["rfilename"], "size": row["size"], "oid": row["blobId"]}
                | ({"lfs": {**row["lfs"], "oid": row["lfs"]["sha256"]}} if "lfs" in row else {})
                for row in rows
            ]
        )

    def _resolve(self, name: str, file: str) -> None:
        repository = self._open(name)
        if repository is None:
            return
        if repository.gated and not self._token_is_right():
            self._refuse(401, "GatedRepo")
        elif repository.gated:
            self._refuse(403, "GatedRepo")
        elif self.hub.refuse and self.command == "GET":
            status, headers = self.hub.refuse.pop(0)
            self._answer(status, b"busy", headers)
        elif file not in repository.files:
            self._refuse(404, "EntryNotFound")
        elif file.endswith(".safetensors"):
            data = repository.files[file]
            about = {
                "Location": f"{self.hub.cdn}/{name}/{file}",
                "X-Repo-Commit": repository.commit,
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
            }
            self._answer(302, b"", about)
        else:
            data = repository.files[file]
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self._body(file, data, {"ETag": f'"{blob}"', "X-Repo-Commit": repository.commit})

    def _cdn(self, path: str) -> None:
        owner, name, file = path.strip("/").split("/")
        self.hub.gate.wait(30)
        self._body(file, self.hub.repositories[f"{owner}/{name}"].files[file])

    def _open(self, name: str) -> Repository | None:
        signed = "Authorization" in self.headers
        repository = self.hub.repositories.get(name)
        if signed and not self._token_is_right():
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and not signed):
            self._refuse(404 if signed else 401, "RepoNotFound", "Repository not found")
        else:
            return repository
        return None

    def _token_is_right(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _body(self, name: str, data: bytes, about: dict[str, str] | None = None) -> None:
        start = 0
        if self.hub.resumes and (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(match[1])
        if start and start >= len(data):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        body = data[start:]
        if self.hub.corrupt.get(name, 0) > 0:
            self.hub.corrupt[name] -= 1
            body = bytes([body[0] ^ 255]) + body[1:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        for header, value in (about or {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}).items():
            self.send_header(header, value)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hub.drop_after.get(name)
        if self.hub.stall == name:
            self.wfile.write(body[: self.hub.stall_after])
            self.hub.over.wait(30)
        elif self.hub.trickle == name:
            for at in range(len(body)):
                self.wfile.write(body[at : at + 1])
                if self.hub.over.wait(0.01):
                    break
        elif cuts:
            self.wfile.write(body[: cuts.pop(0)])
            if self.hub.reset:  # closing a socket that does not linger sends RST
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        else:
            self._pour(body)
            return
        self.close_connection = True

    def _pour(self, body: bytes) -> None:
        for at in range(0, len(body), 2**20):
            piece = body[at : at + 2**20]
            time.sleep(self.hub.slow_s * len(piece) / 2**20)
            self.wfile.write(piece)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, words: str = "") -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": words})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
