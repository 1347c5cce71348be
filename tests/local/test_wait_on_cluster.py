"""`psr wait` for an object of a cluster: what credentials it sends, as a server on the loopback interface hears."""

from __future__ import annotations

import base64
import json
import os
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.keys import write_keys
from psr_operator import cluster
from psr_operator.cli import main

PATH = "/apis/psr.dev/v1alpha1/namespaces/{namespace}/selfrewardruns/math"
PLUGIN = """\
import json, os, sys
place = sys.argv[1]
calls = int(open(place).read()) + 1 if os.path.exists(place) else 1
open(place, "w").write(str(calls))
if sys.argv[2] == "fail":
    sys.exit("not logged in: run the login command")
credential = {"token": f"token-{calls}-{os.environ['WHO']}"} if sys.argv[2] == "token" else {}
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": credential}))
"""
Answer = tuple[int, Any]


class Server:
    """An apiserver with one run. `heard`: path and Authorization of every request; `answers`: before the usual one."""

    def __init__(self, keys: Path | None) -> None:
        self.heard: list[tuple[str, str | None]] = []
        self.names: list[str | None] = []
        self.answers: list[Answer] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.heard.append((self.path, self.headers.get("Authorization")))
                if keys is not None:
                    outer.names.append(_common_name(self.connection))
                code, body = outer.answers.pop(0) if outer.answers else (200, run("True"))
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """`heard` is the log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if keys is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(keys / "server.crt", keys / "server.key")
            context.load_verify_locations(keys / "ca.crt")
            context.verify_mode = ssl.CERT_OPTIONAL
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _common_name(connection: Any) -> str | None:
    certificate = connection.getpeercert()
    return dict(pair for (pair,) in certificate["subject"])["commonName"] if certificate else None


def run(ready: str, **conditions: str) -> dict[str, Any]:
    listed = [{"type": kind, "status": status, "reason": "R"} for kind, status in conditions.items()]
    return {"status": {"conditions": [{"type": "Ready", "status": ready, "reason": "R", "message": "m"}, *listed]}}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    write_keys(folder, "127.0.0.1")
    return folder


@pytest.fixture
def serve(keys: Path) -> Iterator[Callable[[str], Server]]:
    servers = []

    def start(scheme: str) -> Server:
        servers.append(Server(keys if scheme == "https" else None))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def _nobody_s_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KUBECONFIG", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("psr_operator.commands.wait.CLUSTER_POLL_SECONDS", 0.02)


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """A user whose credentials an exec plug-in gives: `token`, `nothing`, or `fail`."""
    script = tmp_path / "plugin.py"
    script.write_text(PLUGIN)

    def user(ends: str) -> dict[str, Any]:
        call = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(script), str(tmp_path / "calls"), ends],
            "env": [{"name": "WHO", "value": "ada"}],
            "interactiveMode": "IfAvailable",
            "installHint": "Install the login command\nfrom its page.",
        }
        return {"exec": call}

    return user


def kubeconfig(path: Path, url: str, user: dict[str, Any], *, name: str = "one", **cluster: Any) -> Path:
    context = {"cluster": name, "user": name, "namespace": f"team-{name}"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": context}],
        "clusters": [{"name": name, "cluster": {"server": url, **cluster}}],
        "users": [{"name": name, "user": user}],
    }
    path.write_text(json.dumps(document))
    return path


def wait(*arguments: str | Path, seconds: str = "0") -> int:
    return main(["wait", "SelfRewardRun/math", "--timeout", seconds, *map(str, arguments)])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_token_of_an_exec_plugin_is_sent(
    scheme: str, serve: Callable[[str], Server], plugin: Callable[[str], dict[str, Any]], keys: Path, tmp_path: Path
) -> None:
    server = serve(scheme)
    authority = {"certificate-authority-data": base64.b64encode((keys / "ca.crt").read_bytes()).decode()}
    file = kubeconfig(tmp_path / "config", server.url, plugin("token"), **(authority if scheme == "https" else {}))
    before = file.read_bytes()
    assert wait("--kubeconfig", file) == 0
    assert server.heard == [(PATH.format(namespace="team-one"), "Bearer token-1-ada")]
    assert file.read_bytes() == before
    assert not (tmp_path / "home").exists()


def test_a_token_that_is_refused_is_asked_for_again(
    serve: Callable[[str], Server], plugin: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    """Once: an hour is longer than a token lives."""
    server = serve("http")
    file = kubeconfig(tmp_path / "config", server.url, plugin("token"))
    server.answers = [(401, {"message": "Unauthorized"})]
    assert wait("--kubeconfig", file, "-n", "team") == 0
    assert [bearer for _, bearer in server.heard] == ["Bearer token-1-ada", "Bearer token-2-ada"]
    assert server.heard[0][0] == PATH.format(namespace="team")


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (
            "fail",
            "gave no credentials: exec: process returned 1. not logged in: run the login command. Install the login",
        ),
        (
            "nothing",
            "gave no credentials: exec: missing token or clientCertificateData field in plugin output. Install",
        ),
        (
            {"exec": {"apiVersion": "v1", "command": "no-such-plugin"}},
            "the exec plug-in no-such-plugin gave no credentials",
        ),
        (
            {"auth-provider": {"name": "azure"}},
            "the auth-provider azure gave no credentials; use its exec plug-in instead",
        ),
        ({}, "user 'one' of context 'one' has no credentials (it has nothing); log in to the cluster"),
        ({"username": "ada"}, "has no credentials (it has username); log in to the cluster"),
    ],
    ids=["plug-in fails", "plug-in gives none", "plug-in missing", "provider gone", "nobody", "no password"],
)
def test_without_credentials_nothing_is_asked(
    user: Any,
    message: str,
    serve: Callable[[str], Server],
    plugin: Callable[[str], dict[str, Any]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Never an anonymous request; and one line says why."""
    server = serve("http")
    file = kubeconfig(tmp_path / "config", server.url, plugin(user) if isinstance(user, str) else user)
    assert wait("--kubeconfig", file) == 64
    said = capfd.readouterr()
    assert message in said.err
    assert str(file) in said.err
    assert (said.err.count("\n"), said.out) == (1, "")
    assert server.heard == []


def test_a_client_certificate_is_shown(serve: Callable[[str], Server], keys: Path, tmp_path: Path) -> None:
    server = serve("https")
    user = {"client-certificate": str(keys / "kubelet-client.crt"), "client-key": str(keys / "kubelet-client.key")}
    file = kubeconfig(tmp_path / "config", server.url, user, **{"certificate-authority": str(keys / "ca.crt")})
    assert wait("--kubeconfig", file) == 0
    assert server.names == ["kube-apiserver-kubelet-client"]
    assert server.heard[0][1] is None


def test_a_server_of_another_authority_is_not_trusted(
    serve: Callable[[str], Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("https")
    assert wait("--kubeconfig", kubeconfig(tmp_path / "config", server.url, {"token": "secret"}), seconds="60") == 64
    said = capsys.readouterr().err
    assert f"TLS with {server.url} fails: " in said
    assert "secret" not in said
    assert server.heard == []


def test_of_several_files_the_first_current_context_counts(
    serve: Callable[[str], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As kubectl reads $KUBECONFIG; a file that is not there is passed over, and `--context` takes another one."""
    one, two = serve("http"), serve("http")
    files = [
        tmp_path / "gone",
        kubeconfig(tmp_path / "a", one.url, {"token": "a"}, name="one"),
        kubeconfig(tmp_path / "b", two.url, {"token": "b"}, name="two"),
    ]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, files)))
    assert wait() == 0
    assert wait("--context", "two") == 0
    assert one.heard == [(PATH.format(namespace="team-one"), "Bearer a")]
    assert two.heard == [(PATH.format(namespace="team-two"), "Bearer b")]
    assert wait("--context", "three") == 64
    assert "no context three; there are one, two" in capsys.readouterr().err
    assert wait("--kubeconfig", tmp_path / "gone") == 64
    assert f"there is no kubeconfig {tmp_path / 'gone'}; give --kubeconfig FILE" in capsys.readouterr().err


def test_a_proxy_of_the_kubeconfig_is_used(serve: Callable[[str], Server], tmp_path: Path) -> None:
    """It hears the whole address: what is asked of `nowhere.invalid` comes to it."""
    proxy = serve("http")
    file = kubeconfig(tmp_path / "config", "http://nowhere.invalid", {"token": "t"}, **{"proxy-url": proxy.url})
    assert wait("--kubeconfig", file) == 0
    assert proxy.heard == [("http://nowhere.invalid" + PATH.format(namespace="team-one"), "Bearer t")]


def test_what_an_apiserver_answers_is_told_apart(
    serve: Callable[[str], Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not there yet, not now, no such kind, not allowed; a failure of the object is 1, the time's end 2."""
    server = serve("http")
    file = kubeconfig(tmp_path / "config", server.url, {"token": "t"})
    missing = {"reason": "NotFound", "message": 'selfrewardruns.psr.dev "math" not found', "details": {"name": "math"}}
    server.answers = [
        (404, missing),
        (503, {"message": "starting"}),
        (200, run("False")),
        (200, run("False", Stalled="True")),
    ]
    assert wait("--kubeconfig", file, seconds="60") == 1
    assert capsys.readouterr().out.splitlines() == [
        "SelfRewardRun/math is not there yet",
        "SelfRewardRun/math: the apiserver answers 503: starting; asking again",
        "SelfRewardRun/math R: m",
    ]
    server.answers = [(200, run("False"))]
    assert wait("--kubeconfig", file) == 2
    capsys.readouterr()
    server.answers = [(404, "404 page not found")]
    assert wait("--kubeconfig", file, seconds="60") == 64
    assert "this cluster knows no SelfRewardRun; `psr crds | kubectl apply" in capsys.readouterr().err
    server.answers = [(403, {"message": "ada cannot get runs"})]
    assert wait("--kubeconfig", file, seconds="60") == 64
    assert "SelfRewardRun/math: the apiserver answers 403: ada cannot get runs" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wait("--kubeconfig", kubeconfig(tmp_path / "config", "http://127.0.0.1:9", {"token": "t"})) == 2
    said = capsys.readouterr().out
    assert said.startswith("SelfRewardRun/math: http://127.0.0.1:9 does not answer (")
    assert said.count("\n") == 1


def test_in_a_pod_its_account_is_used(
    serve: Callable[[str], Server], keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("https")
    (tmp_path / "token").write_text("account")
    monkeypatch.setattr(cluster, "ACCOUNT", tmp_path / "token")
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(keys / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", server.url.rpartition(":")[2])
    assert wait() == 0
    assert server.heard == [(PATH.format(namespace="default"), "bearer account")]


def test_without_the_client_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.delitem(sys.modules, "psr_operator.cluster")
    assert wait() == 64
    assert capsys.readouterr().err == "psr wait needs kubernetes, which is not installed here; install psr[cluster]\n"
