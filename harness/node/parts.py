"""What the test node consists of beside the control plane: network, containerd, kubelet, kube-proxy, name server."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

from harness.control_plane.plane import ControlPlane
from harness.node.processes import STATE, NodeError, answers, quiet, start, until, write

RUN = Path("/run/psr-cluster")
SOCKET = RUN / "containerd.sock"
NAME = "psr-node"
BRIDGE = "psr0"
GATEWAY = "10.88.0.1"
PODS = "10.88.0.0/16"
DNS_SERVICE = "10.96.0.10"
PAUSE = "psr.test/pause:1"
CTR = ["ctr", "--address", str(SOCKET), "--namespace", "k8s.io"]


def network() -> None:
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
    write(
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


def containerd(pause: Path) -> None:
    """containerd with an image of the program that holds a pod's namespaces."""
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
    start("containerd", ["containerd", "--config", write("containerd.toml", configuration)])
    until(lambda: quiet([*CTR, "version"]), "containerd to answer", "containerd")
    archive = STATE / "pause.tar"
    _write_pause_image(pause, archive)
    subprocess.run([*CTR, "images", "import", str(archive)], check=True, capture_output=True)
    archive.unlink()


def _write_pause_image(program_file: Path, archive: Path) -> None:
    """An image with one static program, as an archive that `ctr images import` reads."""
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


def kubelet(plane: ControlPlane, program_file: Path) -> None:
    """The kubelet, on containerd."""
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
        "resolvConf": write("resolv.conf", ""),
        "podLogsDir": str(STATE / "pod-logs"),
        "volumePluginDir": str(STATE / "volume-plugins"),
        "serializeImagePulls": False,
    }
    start(
        "kubelet",
        [
            program_file,
            f"--config={write('kubelet.yaml', json.dumps(configuration, indent=1))}",
            f"--kubeconfig={plane.kubeconfig}",
            f"--root-dir={STATE / 'kubelet'}",
            f"--cert-dir={STATE / 'kubelet-certificates'}",
            f"--hostname-override={NAME}",
            f"--node-ip={GATEWAY}",
        ],
    )


def kube_proxy(plane: ControlPlane, program_file: Path) -> None:
    """kube-proxy by iptables: what makes Services reach their pods."""
    start("kube-proxy", [program_file, f"--config={write('kube-proxy.yaml', _proxy_configuration(plane))}"])


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


def dns(plane: ControlPlane, program_file: Path) -> None:
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
    start("coredns", [program_file, "-conf", write("Corefile", corefile)])
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
    until(lambda: answers("http://127.0.0.1:18181/ready"), "CoreDNS to know the cluster", "coredns")
