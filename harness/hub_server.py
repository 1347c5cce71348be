"""A stand-in for a Hugging Face hub on loopback: repositories in memory, with commits, branches and a token.

It answers what huggingface_hub asks for when it reads: which commit a revision names, the files of a commit, and their
bytes, in ranges. It can move a branch, refuse, and break a download off in the middle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]
LARGE = 64
"""Bytes from which a file is kept as a large one (LFS), whose sha256 the hub tells."""


@dataclass
class Hub:
    """The hub.

    Attributes:
        endpoint: its URL, for `HF_ENDPOINT`.
        commits: by kind and name of the repository, then by commit.
        branches: the commit of each branch, by repository.
        token: that readers must show; None where none is needed.
        breaks: paths whose next download ends after so many bytes.
        status: that every answer has; None for the right ones.
        shown: path, and the Authorization header, of every request.
    """

    endpoint: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    token: str | None = None
    breaks: dict[str, int] = field(default_factory=dict)
    status: int | None = None
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    shown: list[tuple[str, str | None]] = field(default_factory=list)

    def commit(self, repository: str, files: Files, *, branch: str = "main") -> str:
        """Add a commit to `models/org/name` or `datasets/org/name` and move a branch to it. Returns its 40 digits."""
        text = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())})
        number = len(self.commits.get(repository, {}))
        commit = hashlib.sha1(f"{repository}{number}{text}".encode()).hexdigest()
        self.commits.setdefault(repository, {})[commit] = dict(files)
        self.branches.setdefault(repository, {})[branch] = commit
        return commit


@contextlib.contextmanager
def start_hub() -> Iterator[Hub]:
    """A hub that runs until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        self.hub.shown.append((path, self.headers.get("Authorization")))
        if self.hub.status is not None:
            return self._send(self.hub.status, b"", {})
        large = re.fullmatch(r"/large/((?:models|datasets)/[^/]+/[^/]+)/([^/]+)/(.+)", path)
        if large:  # where the hub sends readers of large files to: another host, which must not see the token
            return self._bytes(large[3], self.hub.commits[large[1]][large[2]][large[3]], {})
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        asked = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        if asked:
            return self._about(*asked.groups())
        asked = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if asked:
            kind, name, revision, file = asked.groups()
            return self._file(f"{kind or 'models/'}{name}", revision, file)
        return self._send(404, b"", {})

    def _commit(self, repository: str, revision: str) -> str | None:
        """The commit of a revision; None after it was said that there is none."""
        if repository not in self.hub.commits:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = self.hub.branches[repository].get(revision, revision)
        if commit not in self.hub.commits[repository]:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def _about(self, repository: str, what: str, revision: str) -> None:
        commit = self._commit(repository, revision)
        if commit is None:
            return None
        files = self.hub.commits[repository][commit]
        if what == "revision":
            name = repository.partition("/")[2]
            siblings = [{"rfilename": file} for file in files]
            document: object = {"id": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}
        else:
            folders = sorted({name.rpartition("/")[0] for name in files if "/" in name})
            document = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders]
            document += [_entry(name, data) for name, data in files.items()]
        return self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, revision: str, file: str) -> None:
        commit = self._commit(repository, revision)
        if commit is None:
            return None
        data = self.hub.commits[repository][commit].get(file)
        if data is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if len(data) >= LARGE:
            other = self.hub.endpoint.replace("127.0.0.1", "localhost")
            return self._send(302, b"", {**headers, "Location": f"{other}/large/{repository}/{commit}/{file}"})
        return self._bytes(file, data, headers)

    def _bytes(self, file: str, data: bytes, headers: Mapping[str, str]) -> None:
        """The bytes of a file, or the range that is asked for."""
        at = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if at is None:
            return self._send(200, data, headers, self.hub.breaks.pop(file, None) if self.command == "GET" else None)
        first, last = int(at[1]), int(at[2] or len(data) - 1)
        where = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return self._send(206, data[first : last + 1], {**headers, **where})

    def _send(self, code: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _entry(name: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
    if len(data) >= LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
