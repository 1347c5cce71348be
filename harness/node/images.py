"""The images of the test node: PSR's own Dockerfiles on a base made from Debian's packages, and an S3 server.

There may be no container registry, so containerd imports what buildah made. Layers are kept in the user's cache; only
what changed is built again, and only what the node has not is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.node.parts import CTR
from harness.node.processes import STATE
from harness.s3_server import program
from images.build import STANDS_ON, BuildError, build, builder, run

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "psr" / "images"
STORAGE = ("--storage-driver=overlay", f"--root={CACHE / 'storage'}", "--runroot=/run/psr-images")
BUILDAH = ("buildah", *STORAGE)
QUICK = ("--quiet", "--compression-format=zstd", "--compression-level=1")

BASE = "psr.test/base:bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates", "libgomp1", "libnuma1")
TOOLS, DEPENDENCIES = "psr.test/psr-tools:a", "psr.test/psr-dependencies:a"
OPERATOR, RUNTIME, INFERENCE = "psr.test/psr-operator", "psr.test/psr-runtime", "psr.test/psr-inference"
OURS = (OPERATOR, RUNTIME, INFERENCE)
TAG, NEXT = "a", "b"
"""Two releases. `NEXT` holds the same bytes under another name."""
VLLM = "psr.test/vllm"
"""As the upstream image is: vLLM, and nothing of ours."""
S3 = "psr.test/s3:a"
ROOM = 10e9
"""Bytes that all layers take."""
NAMED = {"BASE": BASE, "TOOLS": TOOLS, "DEPENDENCIES": DEPENDENCIES}
TAGS = {
    "tools": TOOLS,
    "dependencies": DEPENDENCIES,
    "operator": f"{OPERATOR}:{TAG}",
    "runtime": f"{RUNTIME}:{TAG}",
    "inference": f"{INFERENCE}:{TAG}",
}


def make() -> None:
    """Build everything and copy it to the node that is up.

    Raises:
        BuildError: an image cannot be built or imported.
    """
    build_all()
    copy_to_node()


def build_all() -> None:
    """Build everything; no node need be up.

    Raises:
        BuildError: an image cannot be built.
    """
    _build_base()
    for name, tag in TAGS.items():
        arguments = {key: NAMED[key] for key in sorted(STANDS_ON[name])}
        if name == "inference":
            arguments["ENVIRONMENT"] = "cpu"
        with _timed(tag):
            build(name, tag, arguments, builder(*STORAGE))
    for tag, builds in ((f"{VLLM}:{NEXT}", _build_vllm), (S3, _build_s3)):
        with _timed(tag):
            builds(tag)
    # What earlier builds have left, unless somebody builds beside us.
    subprocess.run([*BUILDAH, "rmi", "--prune"], capture_output=True, check=False)


class _timed:
    """Say how long something took."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        print(f"{self._what:<28} {time.monotonic() - self._started:6.0f} s", flush=True)


def copy_to_node() -> None:
    """Have the node's containerd know the images that were built.

    Raises:
        BuildError: the import failed.
    """
    with _timed("all on the node"):
        _import([*(f"{repository}:{TAG}" for repository in OURS), f"{VLLM}:{NEXT}", S3])
        for repository in OURS:
            run(*CTR, "images", "tag", "--force", f"{repository}:{TAG}", f"{repository}:{NEXT}")


def _import(tags: Sequence[str]) -> None:
    """Import images into containerd. Layers that they share go there once, in memory if there is room.

    Raises:
        BuildError: the import failed.
    """
    identities = {tag: run(*BUILDAH, "images", "--no-trunc", "--quiet", tag).strip() for tag in tags}
    note = STATE / "images.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    new = [tag for tag in tags if known.get(tag) != identities[tag]]
    if not new:
        return
    memory = Path("/dev/shm")
    room = shutil.disk_usage(memory).free if memory.is_dir() else 0
    with tempfile.TemporaryDirectory(prefix="psr-images-", dir=memory if room > ROOM else STATE) as folder:
        whole = _Layout(Path(folder) / "whole")
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(whole.add, new):
                pass
        whole.close()
        with subprocess.Popen(["tar", "-C", whole.folder, "-cf", "-", "."], stdout=subprocess.PIPE) as tar:
            done = subprocess.run(
                [*CTR, "images", "import", "-"], stdin=tar.stdout, capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            raise BuildError(f"ctr images import ended with {done.returncode}:\n{done.stderr[-3000:]}")
    note.write_text(json.dumps(identities))


class _Layout:
    """An OCI image layout of several images; what they share lies in it once. Its methods may run side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        self._manifests: list[dict[str, Any]] = []

    def add(self, tag: str) -> None:
        """Put an image of buildah into it."""
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as one:
            run(*BUILDAH, "push", *QUICK, tag, f"oci:{one}:{tag}")
            for blob in (Path(one) / "blobs" / "sha256").iterdir():
                blob.replace(self._blobs / blob.name)
            for item in json.loads((Path(one) / "index.json").read_text())["manifests"]:
                # How containerd is told a name as it stands.
                item["annotations"]["io.containerd.image.name"] = tag
                self._manifests.append(item)

    def close(self) -> None:
        """Write the index."""
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self._manifests}))


def size(tag: str) -> int:
    """Bytes of an image's layers, those of its base included."""
    with tempfile.TemporaryDirectory(prefix="psr-size-", dir=STATE) as folder:
        archive = Path(folder) / "image.tar"
        run(*BUILDAH, "push", "--disable-compression", "--quiet", tag, f"docker-archive:{archive}")
        return archive.stat().st_size


def _build_base() -> None:
    if subprocess.run([*BUILDAH, "inspect", BASE], capture_output=True, check=False).returncode == 0:
        return
    with _timed(BASE), tempfile.TemporaryDirectory(prefix="psr-base-") as folder:
        tool = shutil.which("mmdebstrap") or "mmdebstrap"
        archive = str(Path(folder) / "base.tar")
        run(tool, "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}", "bookworm", archive)
        (Path(folder) / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        run(*BUILDAH, "bud", "--isolation=chroot", "-t", BASE, folder)


def _build_vllm(tag: str) -> None:
    packages = "/opt/psr/lib/python3*/site-packages"
    text = f"""FROM {INFERENCE}:{TAG}
USER 0:0
RUN rm -rf {packages}/psr_runtime {packages}/psr_operator {packages}/psr-*.dist-info {packages}/boto*
USER 65532:65532
"""
    _build_text(tag, text)


def _build_s3(tag: str) -> None:
    """SeaweedFS, as its package for Python brings it."""
    text = f'FROM {BASE}\nCOPY weed /usr/local/bin/weed\nUSER 65532:65532\nENTRYPOINT ["weed"]\n'
    _build_text(tag, text, program())


def _build_text(tag: str, text: str, *files: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="psr-image-") as folder:
        for file in files:
            shutil.copy(file, folder)
        (Path(folder) / "Dockerfile").write_text(text)
        run(*BUILDAH, "bud", "--isolation=chroot", "--layers", "-t", tag, folder)
