"""A real Kubernetes node on this machine: `make cluster-up`, `make cluster-down`. Linux and root only.

containerd, a bridge, kubelet, kube-proxy and CoreDNS beside the control plane of `harness.control_plane`. All of
it lies in `STATE` and `RUN` and uses the bridge `BRIDGE` with addresses of its own; `down` ends each process by its
pid and takes away what was made. What is not of ours on the machine (another containerd, other bridges) is left
alone.

What does not belong here: images (`images.py`) and what is tested on the node.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.control_plane.build import CONTROL_PLANE, NODE, BuildFailed, program
from harness.control_plane.plane import APIError, ControlPlane, launch_control_plane

STATE = Path("/var/lib/psr-cluster")
RUN = Path("/run/psr-cluster")
SOCKET = RUN / "containerd.sock"
NAME = "psr-node"
BRIDGE = "psr0"
GATEWAY = "10.88.0.1"
PODS = "10.88.0.0/16"
DNS_SERVICE = "10.96.0.10"
PAUSE = "psr.test/pause:1"
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
START_SECONDS = 120.0


class NodeError(Exception):
    """The node cannot be started or stopped; the message says why and what to do."""


@dataclass(frozen=True)
class Process:
    """A process of the node. `started`, in clock ticks since boot, tells it from another one with its pid."""

    name: str
    pid: int
    started: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.node", description=(__doc__ or "").split("\n")[0])
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
    return place if place.exists() and any(map(_runs, _processes())) else None


def status() -> None:
    """Say what runs."""
    for item in _processes():
        print(f"{item.name:<24} pid {item.pid}  {'running' if _runs(item) else 'ended'}")
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
    missing = [package for package, brings in PACKAGES.items() if shutil.which(brings) is None]
    print("This starts a Kubernetes node on this machine, until `make cluster-down`:")
    print(f"  installs     {'Debian packages ' + ' '.join(missing) if missing else 'nothing'}")
    print(f"  builds       {', '.join((*CONTROL_PLANE, *NODE))} in ~/.cache/psr/programs, where they are missing")
    print("  starts       etcd, the control plane, containerd, kubelet, kube-proxy, CoreDNS")
    print(f"  writes       {STATE}, {RUN}, a bridge {BRIDGE} ({PODS}), iptables chains KUBE-* and CNI-*, ip_forward=1")
    sys.stdout.flush()
    if missing:
        _install(missing)
    found = {name: program(name, say=lambda line: print(line, flush=True)) for name in (*CONTROL_PLANE, *NODE)}
    _clear()
    for folder in (STATE, RUN):
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    try:
        started = time.monotonic()
        plane = _start(found)
    except BaseException:
        with contextlib.suppress(NodeError):
            down(keep_logs=True)
        raise
    print(f"up in {time.monotonic() - started:.0f} s: export KUBECONFIG={plane.kubeconfig}")


def _start(found: dict[str, Path]) -> ControlPlane:
    _network()
    plane = launch_control_plane(
        STATE / "plane", controllers=("*",), address=GATEWAY, token=secrets.token_urlsafe(32), detached=True
    )
    for name, process in plane.processes.items():
        _note(name, process.pid)
    _containerd(found["pause"])
    _kubelet(plane, found["kubelet"])
    _run("kube-proxy", [found["kube-proxy"], f"--config={_write('kube-proxy.yaml', _proxy_configuration(plane))}"])
    _dns(plane, found["coredns"])
    until(lambda: _node_is_ready(plane), "the node to be Ready", "kubelet")
    return plane


def down(*, keep_logs: bool = False) -> None:
    """End everything that `up` started and take away what it made.

    Raises:
        NodeError: a process does not end.
    """
    found = {item.name: item for item in _processes() if _runs(item)}
    plane_names = [name for name in found if name in ("etcd", *CONTROL_PLANE)]
    if "kubelet" in found and "kube-apiserver" in found:
        _remove_pods()
    for name in ("kubelet", "kube-proxy", "coredns"):
        if name in found:
            _end(found[name])
    if SOCKET.exists() and "containerd" in found:
        _end_containers()
        _end(found["containerd"])
    for name in reversed(plane_names):
        _end(found[name])
    _clear(keep_logs=keep_logs)
    print("down" if not keep_logs else f"down; logs are in {STATE}")


# --- parts of the node -------------------------------------------------------------------------------------


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


def _network() -> None:
    """The bridge that pods will hang on, before the apiserver listens on its address."""
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", f"{GATEWAY}/16", "dev", BRIDGE], check=True)
    subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not bridged.exists():
        subprocess.run(["modprobe", "br_netfilter"], check=False)
    if not bridged.exists():
        raise NodeError("this kernel has no br_netfilter: Services would not reach pods of the same node")
    bridged.write_text("1\n")
    _write(
        "cni/10-psr.conflist",
        json.dumps(
            {
                "cniVersion": "0.4.0",
                "name": "psr",
                "plugins": [
                    {
                        "type": "bridge",
                        "bridge": BRIDGE,
                        "isGateway": True,
                        "ipMasq": True,
                        "hairpinMode": True,
                        "ipam": {
                            "type": "host-local",
                            "ranges": [[{"subnet": PODS, "rangeStart": "10.88.0.10"}]],
                            "routes": [{"dst": "0.0.0.0/0"}],
                            "dataDir": str(RUN / "addresses"),
                        },
                    },
                    {"type": "portmap", "capabilities": {"portMappings": True}},
                ],
            },
            indent=1,
        ),
    )


def _containerd(pause: Path) -> None:
    configuration = f"""
version = 2
root = "{STATE / "containerd"}"
state = "{RUN / "containerd"}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt",
]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{STATE / "cni"}"
"""
    _run("containerd", ["containerd", "--config", _write("containerd.toml", configuration)])
    until(lambda: _quiet([*CTR, "version"]), "containerd to answer", "containerd")
    archive = STATE / "pause.tar"
    _write_pause_image(pause, archive)
    subprocess.run([*CTR, "images", "import", str(archive)], check=True, capture_output=True)
    archive.unlink()


CTR = ["ctr", "--address", str(SOCKET), "--namespace", "k8s.io"]


def _write_pause_image(program_file: Path, archive: Path) -> None:
    """An image with one static program, as an archive that `ctr images import` reads."""
    import hashlib
    import io
    import tarfile

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        info = tarfile.TarInfo("pause")
        info.size, info.mode = program_file.stat().st_size, 0o755
        with open(program_file, "rb") as content:
            files.addfile(info, content)
    configuration = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    parts = {
        "config.json": json.dumps(configuration).encode(),
        "layer.tar": layer.getvalue(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    with tarfile.open(archive, "w") as files:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            files.addfile(info, io.BytesIO(data))


def _kubelet(plane: ControlPlane, kubelet: Path) -> None:
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": GATEWAY,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(plane.ca)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "resolvConf": _write("resolv.conf", ""),
        "podLogsDir": str(STATE / "pod-logs"),
        "volumePluginDir": str(STATE / "volume-plugins"),
        "serializeImagePulls": False,
    }
    _run(
        "kubelet",
        [
            kubelet,
            f"--config={_write('kubelet.yaml', json.dumps(configuration, indent=1))}",
            f"--kubeconfig={plane.kubeconfig}",
            f"--root-dir={STATE / 'kubelet'}",
            f"--cert-dir={STATE / 'kubelet-certificates'}",
            f"--hostname-override={NAME}",
            f"--node-ip={GATEWAY}",
        ],
    )


def _proxy_configuration(plane: ControlPlane) -> str:
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(plane.kubeconfig)},
            "clusterCIDR": PODS,
            "hostnameOverride": NAME,
            "conntrack": {"maxPerCore": 0},
            "healthzBindAddress": "127.0.0.1:10356",
            "metricsBindAddress": "127.0.0.1:10349",
            "nodePortAddresses": ["127.0.0.0/8"],
        },
        indent=1,
    )


def _dns(plane: ControlPlane, coredns: Path) -> None:
    """CoreDNS beside the node, behind the Service that every pod's resolv.conf names."""
    corefile = f""".:53 {{
    bind {GATEWAY}
    errors
    ready 127.0.0.1:18181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {plane.kubeconfig}
        ttl 5
    }}
}}
"""
    _run("coredns", [coredns, "-conf", _write("Corefile", corefile)])
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    plane.request(
        "POST",
        "/api/v1/namespaces/kube-system/services",
        {
            "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
            "spec": {"clusterIP": DNS_SERVICE, "ports": ports},
        },
    )
    plane.request(
        "POST",
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
        {
            "metadata": {"name": "kube-dns", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [GATEWAY], "conditions": {"ready": True}}],
            "ports": ports,
        },
    )
    until(lambda: _answers("http://127.0.0.1:18181/ready"), "CoreDNS to know the cluster", "coredns")


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


# --- processes ---------------------------------------------------------------------------------------------


def _write(name: str, text: str) -> str:
    place = STATE / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return str(place)


def _run(name: str, command: list[Any]) -> None:
    with open(STATE / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=STATE,
        )
    _note(name, process.pid)


def _note(name: str, pid: int) -> None:
    noted = [*_processes(), Process(name, pid, _start_time(pid) or 0)]
    (STATE / "processes.json").write_text(json.dumps([asdict(item) for item in noted], indent=1))


def _processes() -> list[Process]:
    try:
        return [Process(**item) for item in json.loads((STATE / "processes.json").read_text())]
    except FileNotFoundError:
        return []


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if fields[0] != "Z" else None


def _runs(item: Process) -> bool:
    return _start_time(item.pid) == item.started


def _end(item: Process) -> None:
    for number, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(item.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError, OSError):
                os.waitpid(item.pid, os.WNOHANG)
            if not _runs(item):
                return
            time.sleep(0.05)
    raise NodeError(f"{item.name} (pid {item.pid}) does not end")


def until(done: Callable[[], bool], what: str, log: str, seconds: float = START_SECONDS) -> None:
    """Wait for a condition.

    Raises:
        NodeError: it does not come true; the message holds the end of a log.
    """
    deadline = time.monotonic() + seconds
    while not done():
        ended = [item.name for item in _processes() if not _runs(item)]
        if ended or time.monotonic() > deadline:
            place = STATE / f"{ended[0] if ended else log}.log"
            tail = place.read_text(errors="replace")[-3000:] if place.exists() else ""
            why = f"{ended[0]} ended" if ended else "it took too long"
            raise NodeError(f"waited for {what}: {why}\n{tail}")
        time.sleep(0.1)


def _quiet(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
