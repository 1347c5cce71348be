"""What is kept of a cluster when a test has failed: objects, events, logs of pods and of the node's own processes."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.control_plane.plane import ControlPlane
from harness.node.processes import STATE

KEPT = Path(__file__).parents[2] / "out" / "cluster"
OBJECTS = (
    "psr,jobs,deployments,replicasets,pods,services,configmaps,endpointslices,leases.coordination.k8s.io,pvc,nodes"
)


def keep(cluster: ControlPlane, folder: Path) -> None:
    """Write everything that helps to find out why, Secrets left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arguments in {
        "objects.txt": ("get", OBJECTS, "-A", "-o", "wide"),
        "objects.yaml": ("get", OBJECTS, "-A", "-o", "yaml"),
        "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
    }.items():
        (folder / name).write_text(cluster.ctl(*arguments, check=False))
    listed = cluster.ctl(
        "get", "pods", "-A", "--no-headers", "-o", "custom-columns=:.metadata.namespace,:.metadata.name"
    )
    for line in listed.splitlines():
        namespace, name = line.split()
        for kind, further in (("", ()), (".before", ("--previous",))):
            text = cluster.ctl("logs", "-n", namespace, name, "--all-containers", "--tail=2000", *further, check=False)
            if text:
                (folder / f"{namespace}.{name}{kind}.log").write_text(text)
    for place in (STATE, STATE / "plane"):
        for log in place.glob("*.log"):
            if log.name != "audit.log":
                shutil.copy(log, folder / f"node.{log.name}")
