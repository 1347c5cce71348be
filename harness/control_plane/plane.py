"""A real control plane for tests: etcd, kube-apiserver, kube-controller-manager and kube-scheduler on free ports.

No root, no node: who plays the pods is `player.py`. All that it writes lies in one folder; every process ends with the
block, by its own pid. The environment variable PSR_TEST_KUBECONFIG names a cluster to be used instead.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.control_plane.build import programs
from harness.control_plane.keys import write_keys
from harness.ports import free_ports

START_SECONDS = 120.0
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
ADMIN_TOKEN = "admin-of-a-test-control-plane"
CONTROLLERS = (
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "serviceaccount-controller",
    "ttl-after-finished-controller",
)
AUDIT = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: None
    users: ["system:kube-controller-manager", "system:kube-scheduler", "system:apiserver", "admin"]
  - level: Metadata
"""


class APIError(Exception):
    """The apiserver refused; `code` is the HTTP status, `body` its Status object."""

    def __init__(self, code: int, body: Mapping[str, Any], what: str) -> None:
        super().__init__(f"{what}: {code} {body.get('message', body)}")
        self.code = code
        self.body = body


@dataclass
class ControlPlane:
    """A running control plane.

    Attributes:
        url: of the apiserver.
        ca: file with the certificate to trust.
        kubeconfig: of an administrator.
        kubectl: the program.
        audit: the audit log, a JSON object a line; None for a cluster that is not ours.
        token: of the administrator.
    """

    url: str
    ca: Path
    kubeconfig: Path
    kubectl: Path
    folder: Path
    audit: Path | None
    token: str = ADMIN_TOKEN
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    detached: bool = False
    _context: ssl.SSLContext | None = None

    def request(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        content: str = "application/json",
        token: str | None = None,
    ) -> Any:
        """One request as the administrator (or whoever the token is); the answer's JSON.

        Args:
            body: JSON values, or the text itself.

        Raises:
            APIError: the answer is no success.
        """
        data = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=verb)
        request.add_header("Authorization", f"Bearer {token or self.token}")
        if data is not None:
            request.add_header("Content-Type", content)
        if self._context is None:
            self._context = ssl.create_default_context(cafile=str(self.ca))
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)]
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                status = json.loads(text)
            except ValueError:
                status = {"message": text.decode(errors="replace")}
            raise APIError(error.code, status, f"{verb} {path}") from None
        return json.loads(text) if text.startswith((b"{", b"[")) else text.decode()

    @property
    def discovered(self) -> Path:
        """What kubectl remembers of the apiserver's kinds, for hours; remove it when there are new ones."""
        return self.folder / "discovered"

    def ctl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl; its output."""
        done = subprocess.run(
            [str(self.kubectl), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.discovered}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def kubeconfig_for(self, token: str, place: Path, server: str | None = None) -> Path:
        """Write a kubeconfig that bears this token, to a file. `server`: another address, a proxy say."""
        cluster: dict[str, Any] = {"server": server or self.url}
        if cluster["server"].startswith("https://"):
            cluster["certificate-authority"] = str(self.ca)
        place.write_text(json.dumps(_kubeconfig(cluster, {"token": token})))
        return place

    def stop(self) -> None:
        """End every process, the last one started first."""
        for process in reversed(list(self.processes.values())):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def start_control_plane(
    folder: Path,
    *,
    controllers: tuple[str, ...] = CONTROLLERS,
    scheduler: bool = True,
    enforce: bool = True,
    compact_seconds: int = 300,
) -> Iterator[ControlPlane]:
    """Run a control plane until the block ends. The arguments are those of `launch_control_plane`."""
    plane = launch_control_plane(
        folder, controllers=controllers, scheduler=scheduler, enforce=enforce, compact_seconds=compact_seconds
    )
    try:
        yield plane
    finally:
        plane.stop()


def launch_control_plane(
    folder: Path,
    *,
    controllers: tuple[str, ...] = CONTROLLERS,
    scheduler: bool = True,
    enforce: bool = True,
    compact_seconds: int = 300,
    address: str = "127.0.0.1",
    token: str = ADMIN_TOKEN,
    detached: bool = False,
) -> ControlPlane:
    """Start a control plane; `ControlPlane.stop` ends it.

    Args:
        folder: logs, keys and etcd's data.
        controllers: of kube-controller-manager; none at all where it is empty.
        scheduler: whether kube-scheduler runs.
        enforce: OwnerReferencesPermissionEnforcement and the audit log.
        compact_seconds: how often etcd's history is dropped.
        address: where the apiserver listens, and what pods of a node reach it by.
        token: of the administrator.
        detached: it goes on when this process and its terminal are gone.

    Raises:
        RuntimeError: something did not start; the message holds the end of its log. Nothing is left running.
    """
    built = programs()
    folder.mkdir(parents=True, exist_ok=True)
    etcd, peer, api, manager, scheduling = free_ports(5)
    write_keys(folder, address)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    (folder / "tokens.csv").chmod(0o600)
    (folder / "audit.yaml").write_text(AUDIT)
    url = f"https://{address}:{api}"
    kubeconfig = folder / "admin.kubeconfig"
    plane = ControlPlane(
        url, folder / "ca.crt", kubeconfig, built["kubectl"], folder, folder / "audit.log" if enforce else None, token
    )
    plane.detached = detached
    plane.kubeconfig_for(token, kubeconfig)
    try:
        _start(
            plane,
            "etcd",
            [
                built["etcd"],
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{etcd}",
                f"--advertise-client-urls=http://127.0.0.1:{etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster=default=http://127.0.0.1:{peer}",
                "--unsafe-no-fsync",
                "--log-level=error",
                "--quota-backend-bytes=4294967296",
            ],
        )
        _start(
            plane,
            "kube-apiserver",
            [
                built["kube-apiserver"],
                f"--etcd-servers=http://127.0.0.1:{etcd}",
                f"--etcd-compaction-interval={compact_seconds}s",
                f"--secure-port={api}",
                f"--bind-address={address}",
                f"--advertise-address={address}",
                f"--endpoint-reconciler-type={'none' if address.startswith('127.') else 'lease'}",
                f"--kubelet-client-certificate={folder / 'kubelet-client.crt'}",
                f"--kubelet-client-key={folder / 'kubelet-client.key'}",
                "--kubelet-preferred-address-types=InternalIP",
                f"--tls-cert-file={folder / 'server.crt'}",
                f"--tls-private-key-file={folder / 'server.key'}",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--service-account-issuer=https://psr.test",
                f"--service-account-signing-key-file={folder / 'accounts.key'}",
                f"--service-account-key-file={folder / 'accounts.pub'}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--anonymous-auth=false",
                "--authorization-mode=RBAC",
                "--enable-priority-and-fairness=false",
                "--max-requests-inflight=1000",
                "--max-mutating-requests-inflight=1000",
                *(
                    [
                        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
                        f"--audit-policy-file={folder / 'audit.yaml'}",
                        f"--audit-log-path={folder / 'audit.log'}",
                    ]
                    if enforce
                    else []
                ),
            ],
        )
        _wait_for(plane, lambda: plane.request("GET", "/readyz") == "ok", "kube-apiserver")
        if controllers:
            _start(
                plane,
                "kube-controller-manager",
                [
                    built["kube-controller-manager"],
                    f"--kubeconfig={kubeconfig}",
                    f"--controllers={','.join(controllers)}",
                    "--leader-elect=false",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={manager}",
                    f"--service-account-private-key-file={folder / 'accounts.key'}",
                    f"--root-ca-file={folder / 'ca.crt'}",
                    "--kube-api-qps=500",
                    "--kube-api-burst=1000",
                    "--concurrent-job-syncs=10",
                ],
            )
        if scheduler:
            _start(
                plane,
                "kube-scheduler",
                [
                    built["kube-scheduler"],
                    f"--kubeconfig={kubeconfig}",
                    "--leader-elect=false",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={scheduling}",
                    "--kube-api-qps=500",
                    "--kube-api-burst=1000",
                ],
            )
        if "serviceaccount-controller" in controllers:
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            _wait_for(plane, lambda: bool(plane.request("GET", path)), "kube-controller-manager")
    except BaseException:
        plane.stop()
        raise
    return plane


@contextlib.contextmanager
def named_cluster(kubeconfig: Path, folder: Path) -> Iterator[ControlPlane]:
    """The cluster that a kubeconfig names. If it holds no token, an account of ours gets one until the block ends."""
    kubectl = programs()["kubectl"]
    folder.mkdir(parents=True, exist_ok=True)

    def ctl(*arguments: str, check: bool = True) -> str:
        command = [str(kubectl), f"--kubeconfig={kubeconfig}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=check).stdout

    config = json.loads(ctl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    ca = folder / "ca.crt"
    ca.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    token = user.get("token")
    if token is not None:
        yield ControlPlane(cluster["server"], ca, kubeconfig, kubectl, folder, None, token)
        return
    account = "psr-tests"
    ctl("create", "serviceaccount", account, "-n", "kube-system", check=False)  # it may be there from a run before
    role = f"--serviceaccount=kube-system:{account}"
    ctl("create", "clusterrolebinding", account, "--clusterrole=cluster-admin", role, check=False)
    try:
        token = ctl("create", "token", account, "-n", "kube-system", "--duration=12h").strip()
        yield ControlPlane(cluster["server"], ca, kubeconfig, kubectl, folder, None, token)
    finally:
        ctl("delete", "clusterrolebinding", account, check=False)
        ctl("delete", "serviceaccount", account, "-n", "kube-system", check=False)


def _start(plane: ControlPlane, name: str, command: list[Any]) -> None:
    with open(plane.folder / f"{name}.log", "wb") as log:
        plane.processes[name] = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "GOMAXPROCS": "2"},
            start_new_session=plane.detached,
            preexec_fn=None if plane.detached else _end_with_parent,
        )


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it is gone: a worker of tests may be killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # an apiserver whose etcd is gone does not heed SIGTERM


def _wait_for(plane: ControlPlane, done: Any, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        why = ""
        try:
            if done():
                return
        except (APIError, OSError) as error:
            why = str(error)
        ended = [name for name, process in plane.processes.items() if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            which = ended[0] if ended else name
            log = (plane.folder / f"{which}.log").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{which} did not start ({why}):\n{log}")
        time.sleep(0.05)


def _kubeconfig(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": dict(cluster)}],
        "users": [{"name": "test", "user": dict(user)}],
    }
