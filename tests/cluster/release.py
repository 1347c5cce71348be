"""PSR in the cluster, as its users install it: `helm install charts/psr`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.control_plane.build import program
from harness.control_plane.plane import ControlPlane
from harness.node.images import INFERENCE, OPERATOR, RUNTIME, TAG

ROOT = Path(__file__).parents[2]
NAMESPACE = "psr-system"
NAME = "psr"


def values(tag: str = TAG, inference: str = INFERENCE, *, bring_runtime: bool = False) -> dict[str, Any]:
    """Values of the chart for images that the node has.

    Args:
        tag: the release of PSR.
        inference: image of the servers.
        bring_runtime: whether that one lacks psr_runtime.
    """
    return {
        "images": {
            "pullPolicy": "Never",
            "operator": {"repository": OPERATOR, "tag": tag},
            "runtime": {"repository": RUNTIME, "tag": tag},
            "inference": {"repository": inference, "tag": tag, "bringRuntime": bring_runtime},
        },
        # Quick enough for a test; a team would leave them.
        "operator": {"leaseSeconds": 12, "pollSeconds": 3},
    }


def helm(cluster: ControlPlane, *arguments: str, stdin: str | None = None) -> str:
    """Run Helm; its output."""
    command = [str(program("helm")), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def install(cluster: ControlPlane, wanted: Mapping[str, Any]) -> str:
    """`helm upgrade --install`, until the operator's replicas are available. Returns what Helm says."""
    said = helm(
        cluster,
        "upgrade",
        "--install",
        NAME,
        "charts/psr",
        "--create-namespace",
        "--wait",
        "--timeout=5m",
        "--values=-",
        stdin=json.dumps(wanted),
    )
    shutil.rmtree(cluster.discovered, ignore_errors=True)  # the kinds are new
    return said


def uninstall(cluster: ControlPlane) -> None:
    """`helm uninstall`; the kinds stay."""
    helm(cluster, "uninstall", NAME, "--wait", "--timeout=3m")


def operator_pods(cluster: ControlPlane) -> Sequence[str]:
    """Names of the operator's pods."""
    listed = cluster.request(
        "GET", f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io/component=operator"
    )
    return sorted(item["metadata"]["name"] for item in listed["items"])


def leader(cluster: ControlPlane) -> str | None:
    """The pod that leads, or None while nobody does."""
    leases = cluster.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")["items"]
    pods = set(operator_pods(cluster))
    return next(
        (lease["spec"]["holderIdentity"] for lease in leases if lease["spec"].get("holderIdentity") in pods), None
    )
