"""A real Kubernetes node on this machine: `make cluster-up`, `make cluster-down`. Linux and root only.

containerd, a bridge, kubelet, kube-proxy and CoreDNS beside the control plane of `harness.control_plane`. All of it
lies in `STATE` (`processes.py`) and `RUN` (`parts.py`) and uses the bridge `BRIDGE` with addresses of its own. `down`
ends each process by its pid and takes away what was made. What is not of ours on the machine (another containerd,
other bridges) is left alone.

What does not belong here: images (`images.py`) and what is tested on the node.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

from harness.control_plane.build import CONTROL_PLANE, NODE, BuildFailed, program
from harness.control_plane.plane import APIError, ControlPlane, launch_control_plane
from harness.node import parts
from harness.node.parts import BRIDGE, CTR, GATEWAY, NAME, PODS, RUN, SOCKET
from harness.node.processes import STATE, NodeError, end, processes, record, runs, until

PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
"""Debian's packages and a program that each brings."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.node.node", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["up", "down", "status"])
    options = parser.parse_args()
    try:
        {"up": up, "down": down, "status": status}[options.what]()
    except (NodeError, BuildFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def kubeconfig() -> Path | None:
    """The kubeconfig of the node that is up, or None."""
    place = STATE / "plane" / "admin.kubeconfig"
    return place if place.exists() and any(map(runs, processes())) else None


def status() -> None:
    """Say what runs."""
    for item in processes():
        print(f"{item.name:<24} pid {item.pid}  {'running' if runs(item) else 'ended'}")
    print(f"kubeconfig: {kubeconfig() or 'none; make cluster-up starts a cluster'}")


def up() -> None:
    """Start the node; one that is up stays as it is.

    Raises:
        NodeError: not root, not Linux, or something did not start. What had started is taken down again.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NodeError(
            "a node needs root on Linux; name a cluster in PSR_TEST_KUBECONFIG instead (kind, for instance)"
        )
    if kubeconfig() is not None:
        print(f"already up: {kubeconfig()}")
        return
    missing = _missing_packages()
    print("This starts a Kubernetes node on this machine, until `make cluster-down`:")
    print(f"  installs     {'Debian packages ' + ' '.join(missing) if missing else 'nothing'}")
    print(f"  builds       {', '.join((*CONTROL_PLANE, *NODE))} in ~/.cache/psr/programs, where they are missing")
    print("  starts       etcd, the control plane, containerd, kubelet, kube-proxy, CoreDNS")
    print(f"  writes       {STATE}, {RUN}, a bridge {BRIDGE} ({PODS}), iptables chains KUBE-* and CNI-*, ip_forward=1")
    sys.stdout.flush()
    built = prepare()
    _clear()
    for folder in (STATE, RUN):
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    try:
        started = time.monotonic()
        plane = _start(built)
    except BaseException:
        with contextlib.suppress(NodeError):
            down(keep_logs=True)
        raise
    print(f"up in {time.monotonic() - started:.0f} s: export KUBECONFIG={plane.kubeconfig}")


def _start(built: dict[str, Path]) -> ControlPlane:
    parts.network()
    plane = launch_control_plane(
        STATE / "plane", controllers=("*",), address=GATEWAY, token=secrets.token_urlsafe(32), detached=True
    )
    for name, process in plane.processes.items():
        record(name, process.pid)
    parts.containerd(built["pause"])
    parts.kubelet(plane, built["kubelet"])
    parts.kube_proxy(plane, built["kube-proxy"])
    parts.dns(plane, built["coredns"])
    until(lambda: _node_is_ready(plane), "the node to be Ready", "kubelet")
    return plane


def down(*, keep_logs: bool = False) -> None:
    """End everything that `up` started and take away what it made.

    Raises:
        NodeError: a process does not end.
    """
    running = {item.name: item for item in processes() if runs(item)}
    plane_names = [name for name in running if name in ("etcd", *CONTROL_PLANE)]
    if "kubelet" in running and "kube-apiserver" in running:
        _remove_pods()
    for name in ("kubelet", "kube-proxy", "coredns"):
        if name in running:
            end(running[name])
    if SOCKET.exists() and "containerd" in running:
        _end_containers()
        end(running["containerd"])
    for name in reversed(plane_names):
        end(running[name])
    _clear(keep_logs=keep_logs)
    print("down" if not keep_logs else f"down; logs are in {STATE}")


def prepare() -> dict[str, Path]:
    """Install and build what a node needs and is not there yet; the programs.

    Raises:
        NodeError: a package cannot be installed.
        BuildFailed: a program cannot be built.
    """
    if missing := _missing_packages():
        _install(missing)
    return {name: program(name, say=lambda line: print(line, flush=True)) for name in (*CONTROL_PLANE, *NODE)}


def _missing_packages() -> list[str]:
    return [package for package, brings in PACKAGES.items() if shutil.which(brings) is None]


def _install(packages: list[str]) -> None:
    if shutil.which("apt-get") is None:
        raise NodeError(f"install {', '.join(packages)} with this machine's package manager, and run it again")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "-q", *command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NodeError(
                f"apt-get {command[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}"
            )


def _node_is_ready(plane: ControlPlane) -> bool:
    try:
        node = plane.request("GET", f"/api/v1/nodes/{NAME}")
    except APIError as error:
        if error.code == 404:
            return False
        raise
    conditions = {item["type"]: item["status"] for item in node["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


# --- taking it down ----------------------------------------------------------------------------------------


def _remove_pods() -> None:
    """Delete every pod, so that the kubelet ends its containers and gives its address back."""
    kubectl = [str(program("kubectl")), f"--kubeconfig={STATE / 'plane' / 'admin.kubeconfig'}"]
    for kind in ("deployments,statefulsets,daemonsets,jobs", "pods"):
        subprocess.run(
            [*kubectl, "delete", kind, "--all", "-A", "--cascade=foreground", "--timeout=60s", "--grace-period=2"],
            check=False,
            capture_output=True,
        )


def _end_containers() -> None:
    """End what the kubelet left behind."""
    listed = subprocess.run([*CTR, "tasks", "list", "-q"], capture_output=True, text=True, check=False).stdout.split()
    for task in listed:
        subprocess.run([*CTR, "tasks", "delete", "--force", task], capture_output=True, check=False)


def _clear(*, keep_logs: bool = False) -> None:
    """Take away mounts, network and files of a node that does not run."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        place = line.split()[1]
        if place.startswith((f"{STATE}/", f"{RUN}/")):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)
    if shutil.which("iptables-save"):
        _clear_chains()
    shutil.rmtree(RUN, ignore_errors=True)
    if not keep_logs:
        shutil.rmtree(STATE, ignore_errors=True)


def _clear_chains() -> None:
    """Remove the iptables chains of kube-proxy and of the network plugins, and the rules that lead to them."""
    for table in ("nat", "filter", "mangle"):
        saved = subprocess.run(["iptables-save", "-t", table], capture_output=True, text=True, check=False).stdout
        ours = ("KUBE-", "CNI-")
        kept = [
            line
            for line in saved.splitlines()
            if not line.startswith(tuple(f":{prefix}" for prefix in ours))
            and not any(f"-A {prefix}" in line or f"-j {prefix}" in line for prefix in ours)
        ]
        if len(kept) < len(saved.splitlines()):
            text = "\n".join(kept) + "\n"
            subprocess.run(["iptables-restore", "-T", table], input=text, text=True, check=False, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
