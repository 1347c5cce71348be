"""The operator as a process of its own, under exactly the role that the chart ships."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from harness.control_plane.plane import APIError, ControlPlane

ROOT = Path(__file__).parents[1]
RULES = ROOT / "charts" / "psr" / "files"
HOME = "psr-system"
START_SECONDS = 60.0


@dataclass
class Operator:
    """A running operator.

    Attributes:
        port: of health and metrics.
        log: file with what it says.
    """

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0
    lease: str = ""

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def metrics(self) -> str:
        """The text of /metrics."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def leads(self) -> bool:
        """Whether it holds the lease."""
        return "psr_leader 1.0" in self.metrics()

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


@dataclass
class Account:
    """A service account of operators, with the chart's rules, and a token of it."""

    plane: ControlPlane
    name: str
    token: str = ""
    user: str = ""
    leases: list[str] = field(default_factory=list)


def grant(plane: ControlPlane, namespaces: Sequence[str] = (), rules: Sequence[Any] | None = None) -> Account:
    """Make a service account that may do what the chart's operator may: everywhere, or in some namespaces.

    Args:
        rules: other rights instead of the chart's.
    """
    name = f"operator-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(APIError):
        plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": HOME}})
    plane.request("POST", f"/api/v1/namespaces/{HOME}/serviceaccounts", {"metadata": {"name": name}})
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    subject = {"kind": "ServiceAccount", "name": name, "namespace": HOME}

    def bind(kind: str, namespace: str | None, rules: Sequence[Any]) -> None:
        place = f"{rbac}/namespaces/{namespace}" if namespace else rbac
        role = f"{name}-{uuid.uuid4().hex[:4]}"
        plane.request("POST", f"{place}/{kind.lower()}s", {"metadata": {"name": role}, "rules": rules})
        plane.request(
            "POST",
            f"{place}/{kind.lower()}bindings",
            {
                "metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
                "subjects": [subject],
            },
        )

    rules = read_rules("rules.yaml") if rules is None else rules
    if namespaces:
        for namespace in namespaces:
            bind("Role", namespace, rules)
    else:
        bind("ClusterRole", None, rules)
    bind("Role", HOME, read_rules("lease-rules.yaml"))
    token = plane.request(
        "POST",
        f"/api/v1/namespaces/{HOME}/serviceaccounts/{name}/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}},
    )["status"]["token"]
    return Account(plane, name, token, f"system:serviceaccount:{HOME}:{name}")


def read_rules(name: str) -> list[Any]:
    """Rules that the chart ships, as plain values."""
    rules: list[Any] = json.loads(json.dumps(YAML(typ="safe").load((RULES / name).read_text())))
    return rules


@contextlib.contextmanager
def start_operator(
    account: Account,
    folder: Path,
    *,
    namespaces: Sequence[str] = (),
    lease: str | None = None,
    identity: str = "operator-0",
    lease_seconds: float = 6.0,
    poll_seconds: float = 1.0,
    resync_seconds: float = 600.0,
    server: str | None = None,
    images: tuple[str, str] = ("registry.test/psr-runtime:1", "registry.test/psr-inference:1"),
    wait: bool = True,
    more: Sequence[str] = (),
    first: str = "pass",
) -> Iterator[Operator]:
    """Run the operator until the block ends.

    Args:
        lease: name of the Lease; operators with the same one are replicas. Unset: one of its own.
        server: address of the apiserver, where it is to go through a proxy.
        wait: until its health endpoint answers.
        first: Python that its process executes before anything else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = uuid.uuid4().hex[:6]
    kubeconfig = account.plane.kubeconfig_for(account.token, folder / f"{identity}-{stamp}.kubeconfig", server)
    log = folder / f"{identity}-{stamp}.log"
    command = [
        sys.executable,
        "-c",
        f"{first}\nimport sys; from psr_operator.cli import main; sys.exit(main())",
        "operator",
        f"--kubeconfig={kubeconfig}",
        f"--runtime-image={images[0]}",
        f"--inference-image={images[1]}",
        f"--lease={lease or account.name}",
        f"--lease-seconds={lease_seconds}",
        f"--identity={identity}",
        f"--namespace={HOME}",
        f"--poll-seconds={poll_seconds}",
        f"--resync-seconds={resync_seconds}",
        "--port=0",
        *(f"--watch-namespace={name}" for name in namespaces),
        *more,
    ]
    with open(log, "wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ})
    operator = Operator(process, log, lease=lease or account.name)
    try:
        if wait:
            operator.port = _port_of(operator)
        yield operator
    finally:
        operator.stop()


def _port_of(operator: Operator) -> int:
    deadline = time.monotonic() + START_SECONDS
    while True:
        match = re.search(r"health and metrics on port (\d+)", operator.said())
        if match is not None:
            return int(match[1])
        if operator.process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the operator did not start:\n{operator.said()[-4000:]}")
        time.sleep(0.02)
