"""Pods of a test's own: a program for Python in the runtime image, as strict as a team's namespace asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.control_plane.paths import collection_of
from harness.control_plane.plane import ControlPlane
from harness.node.images import RUNTIME, TAG


def run_python(
    cluster: ControlPlane,
    namespace: str,
    name: str,
    program: str,
    *arguments: str,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Start a pod that runs a program once."""
    pod: dict[str, Any] = {
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,  # Python as the first process of a container does not heed SIGTERM
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "python",
                    "image": f"{RUNTIME}:{TAG}",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", program, *arguments],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
    cluster.request("POST", collection_of("Pod", namespace), pod)


def output_of(cluster: ControlPlane, namespace: str, name: str) -> str:
    """What a pod has printed once it has succeeded; it is deleted."""
    cluster.ctl("wait", f"pod/{name}", "-n", namespace, "--timeout=300s", "--for=jsonpath={.status.phase}=Succeeded")
    said = cluster.ctl("logs", name, "-n", namespace)
    cluster.ctl("delete", "pod", name, "-n", namespace, "--wait=true")
    return said
