"""Fetch an artefact to this machine and verify every file against its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from psr_runtime.artefacts.manifest import MANIFEST, PARALLEL, FileEntry, read_manifest
from psr_runtime.artefacts.pruned import missing_explained
from psr_runtime.protocol.errors import DataError, InputMissing
from psr_runtime.storage import Storage
from psr_runtime.storage.hashes import digest_of


def fetch(
    storage: Storage, uri: str, to: Path, *, below: str = "", only: Callable[[str], bool] = lambda path: True
) -> Path:
    """Fetch an artefact's files to this machine and verify size and digest of each, by BLAKE3 where the manifest says
    it and it can be computed here, else by sha256.

    A `file://` artefact is verified where it lies and not copied; others are downloaded to `to`, files that are there
    already with the right content are kept.

    Args:
        below: only files under this folder of the artefact.
        only: and of them those of whose path this holds.

    Returns:
        The folder that holds the files (`below` included).

    Raises:
        InputMissing: no artefact, or a file of it is gone.
        DataError: a file does not fit the manifest.
    """
    manifest = read_manifest(storage, uri)
    if manifest is None:
        raise InputMissing(f"{uri}: no {MANIFEST}; the artefact is missing or was not finished")
    prefix = below.strip("/") + "/" if below else ""
    entries = [entry for entry in manifest.files if entry.path.startswith(prefix) and only(entry.path)]
    if not entries:
        raise InputMissing(f"{uri}: the artefact has no files under {below or 'it'}")
    place = storage.local_path(manifest.place(uri, ""))
    root = place if place is not None else to

    def fetch_one(entry: FileEntry) -> None:
        path, origin = root / entry.path, manifest.place(uri, entry.path)
        if place is not None:
            _verify(path, entry, origin)
            return
        name, digest = entry.expected
        if not (path.is_file() and path.stat().st_size == entry.size and digest_of(path, name) == digest):
            computed = storage.download(origin, path, hash=name)
            _check(origin, entry, path.stat().st_size, computed)

    with ThreadPoolExecutor(PARALLEL) as pool:
        for done in [pool.submit(fetch_one, entry) for entry in entries]:
            with missing_explained(storage, uri):
                done.result()
    return root / below if below else root


def read_file(storage: Storage, uri: str, name: str) -> bytes:
    """The content of one file of an artefact, verified.

    Raises:
        InputMissing: no artefact, or it has no such file.
        DataError: the file does not fit the manifest.
    """
    manifest = read_manifest(storage, uri)
    entry = next((item for item in manifest.files if item.path == name), None) if manifest is not None else None
    if manifest is None or entry is None:
        raise InputMissing(f"{uri}: holds no artefact with a file {name}")
    place = manifest.place(uri, name)
    content = storage.read(place)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise DataError(f"{place}: does not have the sha256 that the manifest says; the file was changed")
    return content


def _verify(path: Path, entry: FileEntry, uri: str) -> None:
    if not path.is_file():
        raise InputMissing(f"{uri}: the manifest lists this file and it is gone; make the artefact again")
    size = path.stat().st_size
    _check(uri, entry, size, digest_of(path, entry.expected[0]) if size == entry.size else "")


def _check(uri: str, entry: FileEntry, size: int, computed: str) -> None:
    """Compare size and digest, by the hash of `entry.expected`, with the manifest.

    Raises:
        DataError: one of them differs.
    """
    if size != entry.size:
        raise DataError(f"{uri}: {size} bytes where the manifest says {entry.size}; the file is truncated or foreign")
    name, digest = entry.expected
    if computed != digest:
        raise DataError(f"{uri}: {name} {computed} where the manifest says {digest}; the file was changed")
