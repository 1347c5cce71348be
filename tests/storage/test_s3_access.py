"""How a store is reached: TLS with an authority of one's own, session tokens, the bucket in path or host name."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.s3_proxy import make_authority, wire_to
from harness.s3_server import S3Server
from psr_runtime.config import StorageAccess
from psr_runtime.protocol.errors import ConfigurationError, InputMissing, Interrupted
from psr_runtime.storage import Storage, sha256_of
from psr_runtime.storage.s3 import S3Store

# --- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bundle of an authority, and the server's key and certificate."""
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def behind_tls(s3: S3Server, authority: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[StorageAccess]:
    """Access to the server through TLS; nothing is trusted yet."""
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with wire_to(s3.endpoint, authority[1]) as wire:
        yield StorageAccess(endpoint=wire.endpoint)


def test_with_the_authoritys_bundle_files_travel_through_tls(
    behind_tls: StorageAccess,
    authority: tuple[Path, Path],
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority[0]))
    storage = Storage(behind_tls)
    (tmp_path / "weights").write_bytes(os.urandom(17 << 20))
    storage.upload(tmp_path / "weights", f"{prefix}/weights")
    assert storage.download(f"{prefix}/weights", tmp_path / "fetched") == sha256_of(tmp_path / "weights")
    assert storage.create(f"{prefix}/claim", b"x")
    assert not storage.create(f"{prefix}/claim", b"y")


def test_without_it_the_message_says_what_to_name_and_nobody_tries_again(behind_tls: StorageAccess) -> None:
    with pytest.raises(InputMissing, match=r"s3://psr/a: .*certificate that is not trusted .*AWS_CA_BUNDLE.*caSecret"):
        Storage(behind_tls).read("s3://psr/a")


def test_another_authoritys_bundle_is_no_help(
    behind_tls: StorageAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(make_authority(tmp_path)[0]))
    with pytest.raises(InputMissing, match="not trusted"):
        Storage(behind_tls).read("s3://psr/a")


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_bundle_that_is_none_is_named(
    behind_tls: StorageAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    place = tmp_path / "ca.crt"
    if content is not None:
        place.write_bytes(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(place))
    with pytest.raises(ConfigurationError, match=rf"AWS_CA_BUNDLE {place}: no PEM certificates"):
        Storage(behind_tls).read("s3://psr/a")


def test_a_service_that_ends_the_handshake_is_temporary(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain HTTP where TLS is spoken: a proxy that starts, say."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Interrupted, match="cannot be reached"):
        Storage(StorageAccess(endpoint=s3.endpoint.replace("http:", "https:"))).read("s3://psr/a")


# --- credentials that end ----------------------------------------------------------------------------------


def test_a_session_token_goes_with_every_request(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test server knows no such tokens; what is sent is seen on the wire."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-of-this-session")
    with wire_to(s3.endpoint) as wire:
        storage = Storage(StorageAccess(endpoint=wire.endpoint))
        (tmp_path / "file").write_bytes(b"x")
        for ask in (
            lambda: storage.write("s3://psr/a", b"x"),
            lambda: storage.list("s3://psr/a"),
            lambda: storage.upload(tmp_path / "file", "s3://psr/b"),
        ):
            with contextlib.suppress(InputMissing):
                ask()
        requests = wire.requests()
    assert {item["request"].split()[0] for item in requests} >= {"PUT", "GET", "HEAD"}
    for item in requests:
        assert item["x-amz-security-token"] == "a-token-of-this-session"
        assert "x-amz-security-token" in item["authorization"]  # it is part of what is signed


class Expired(BaseHTTPRequestHandler):
    """A service whose every answer is that the session has ended; to HEAD the status is all there is."""

    protocol_version = "HTTP/1.1"
    status = 400

    def answer(self) -> None:
        body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[400, 403])
def expired(request: pytest.FixtureRequest, s3: S3Server) -> Iterator[Storage]:
    handler = type("Handler", (Expired,), {"status": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield Storage(StorageAccess(endpoint=f"http://127.0.0.1:{server.server_port}"))
    server.shutdown()
    server.server_close()


def upload(storage: Storage, folder: Path) -> None:
    (folder / "file").write_bytes(b"x")
    storage.upload(folder / "file", "s3://psr/a")


@pytest.mark.parametrize(
    "ask",
    [
        lambda storage, _: storage.read("s3://psr/a"),
        lambda storage, _: storage.write("s3://psr/a", b"x"),
        lambda storage, _: storage.create("s3://psr/a", b"x"),
        lambda storage, _: storage.list("s3://psr/a"),
        lambda storage, folder: upload(storage, folder),
        lambda storage, folder: storage.download("s3://psr/a", folder / "x"),
    ],
    ids=["read", "write", "create", "list", "upload", "download"],
)
def test_an_expired_token_is_temporary(
    expired: Storage, tmp_path: Path, ask: Callable[[Storage, Path], object]
) -> None:
    """Whoever gave it gives a new one; the attempt is repeated with that."""
    with pytest.raises(Interrupted, match=r"s3://psr/a: S3 answered ExpiredToken") as caught:
        ask(expired, tmp_path)
    assert caught.value.exit_code == 75


# --- where the bucket stands -------------------------------------------------------------------------------


class Seen(Exception):
    """Raised instead of sending a request."""


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"endpoint": "https://s3.example"}, "https://s3.example/psr/run/a"),
        ({"endpoint": "https://s3.example", "pathStyle": True}, "https://s3.example/psr/run/a"),
        ({"endpoint": "https://s3.example", "pathStyle": False}, "https://psr.s3.example/run/a"),
        ({"region": "eu-central-1"}, "https://psr.s3.eu-central-1.amazonaws.com/run/a"),
        ({"region": "eu-central-1", "pathStyle": True}, "https://s3.eu-central-1.amazonaws.com/psr/run/a"),
    ],
)
def test_the_bucket_stands_in_path_or_host_name(s3: S3Server, fields: dict[str, object], url: str) -> None:
    store = S3Store(StorageAccess.model_validate(fields))

    def look(request: Any, **_: Any) -> None:
        raise Seen(request.url)

    store._client.meta.events.register("before-send.s3", look)
    with pytest.raises(Seen) as seen:
        store.read("s3://psr/run/a")
    assert str(seen.value) == url
