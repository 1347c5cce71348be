"""Publish an artefact: its files first, `manifest.json` last, by conditional put.

Two writers never put different bytes under one name. Before its first file a writer claims the plain names by a
conditional put of `claim.json`, which says the digest of all its files; a writer that meets the claim of another
content writes below `files-<digest>/`, and the manifest says so (`root`). So the manifest that wins describes the bytes
that are there, and all that this needs of a store is the conditional put of a small object. How several ranks write one
artefact stands in `parts.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from psr_runtime.artefacts.differences import OtherConfiguration
from psr_runtime.artefacts.manifest import (
    MANIFEST,
    PARALLEL,
    FileEntry,
    InputEntry,
    Manifest,
    below,
    digest_of_content,
    parse_manifest,
    read_manifest,
)
from psr_runtime.storage import NotFound, Storage, join
from psr_runtime.storage.hashes import digests_of

CLAIM = "claim.json"
"""Beside the files until the manifest stands: whose content has the plain names."""


def publish(
    storage: Storage,
    uri: str,
    folder: Path,
    *,
    stage: str,
    schema_version: int,
    digest: str,
    inputs: Mapping[str, InputEntry],
    configuration: Mapping[str, Any],
    versions: Mapping[str, str],
    metadata: Mapping[str, Any],
    result: Mapping[str, Any],
) -> Manifest:
    """Write every file of `folder` below `uri` and the manifest last.

    Files already there with the same size and content (an earlier attempt that was stopped) are kept. On `file://`
    the files of `folder` may be linked to their new place instead of copied, so they must not be changed afterwards.

    Once a manifest stands nothing is written any more, and what a writer who was not first has written is removed.

    Returns:
        The manifest that stands at `uri` afterwards: ours, or that of a writer who was first with the same digest.

    Raises:
        DataError: somebody published another digest there first.
    """
    published = read_manifest(storage, uri)
    if published is not None:
        return expected(uri, digest, published)
    entries = entries_of(folder)
    for name in {MANIFEST, CLAIM} & {entry.path for entry in entries}:
        raise ValueError(f"stage {stage} has a file {name}; that name is taken")
    storage.sweep(uri)
    root = claim(storage, uri, content_of(entries), entries)
    send(storage, uri, root, folder, entries)
    manifest = Manifest(
        stage=stage,
        schema_version=schema_version,
        digest=digest,
        files=entries,
        inputs=dict(inputs),
        configuration=dict(configuration),
        versions=dict(versions),
        metadata=dict(metadata),
        result=dict(result),
        root=root,
    )
    return conclude(storage, uri, manifest)


def expected(uri: str, digest: str, published: Manifest) -> Manifest:
    """The manifest that stands at `uri`, where it is that of this digest.

    Raises:
        DataError: it is another digest's.
    """
    if published.digest != digest:
        raise OtherConfiguration(uri, published.digest, digest)
    return published


def entries_of(folder: Path) -> list[FileEntry]:
    """Every file below a folder of this machine, sorted by path."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def enter(name: str) -> FileEntry:
        return FileEntry(path=name, size=paths[name].stat().st_size, **digests_of(paths[name]))

    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(enter, paths))


def content_of(entries: Iterable[FileEntry]) -> str:
    """Digest of a set of files, 64 hexadecimal digits: the same for the same names and bytes, in whatever order."""
    return digest_of_content({entry.path: entry.sha256 for entry in entries}).removeprefix("sha256:")


def claim(storage: Storage, uri: str, content: str, entries: Iterable[FileEntry]) -> str:
    """Where a writer of this content may put its files: empty for the plain names, else a folder below `uri`.

    The first content that comes gets the plain names. After this call a writer looks for the manifest before each
    file (`send`): once one stands, claims are removed.

    Args:
        content: what no other writer of other bytes names.
        entries: the files, so that whoever publishes in spite of the claim can remove them.
    """
    place = join(uri, CLAIM)
    document = {"content": content, "files": [entry.path for entry in entries]}
    if storage.create(place, json.dumps(document, indent=1).encode()) or _claim_at(storage, uri)[0] == content:
        return ""
    return f"files-{content[:16]}"


def _claim_at(storage: Storage, uri: str) -> tuple[str, list[str]]:
    """Content and paths of the claim that stands; empty where none does, or none that can be read."""
    try:
        document = json.loads(storage.read(join(uri, CLAIM)))
        return str(document["content"]), [below(str(path)) for path in document["files"]]
    except (NotFound, ValueError, KeyError, TypeError):
        return "", []


def send(storage: Storage, uri: str, root: str, folder: Path, entries: Iterable[FileEntry]) -> None:
    """Upload files of `folder` to where `claim` said. Once a manifest stands at `uri` nothing is sent any more."""

    def upload(entry: FileEntry) -> None:
        if read_manifest(storage, uri) is None:
            place = join(uri, *filter(None, (root, entry.path)))
            storage.upload(folder / entry.path, place, sha256=entry.sha256, move=True)

    with ThreadPoolExecutor(PARALLEL) as pool:
        for sent in [pool.submit(upload, entry) for entry in entries]:
            sent.result()


def conclude(storage: Storage, uri: str, manifest: Manifest) -> Manifest:
    """Put the manifest if none stands, and remove what belongs to none.

    Returns:
        The manifest that stands, as a later reader finds it, not as it was handed in.

    Raises:
        DataError: it is another digest's.
    """
    place = join(uri, MANIFEST)
    data = manifest.to_bytes()
    published = parse_manifest(data if storage.create(place, data) else storage.read(place), place)
    if published.root != manifest.root:
        if manifest.root:
            storage.delete_folder(join(uri, manifest.root))
        else:
            for entry in manifest.files:
                storage.delete(join(uri, entry.path))
    clear_claim(storage, uri, published)
    return expected(uri, manifest.digest, published)


def clear_claim(storage: Storage, uri: str, published: Manifest) -> None:
    """Remove the claim on the plain names at `uri`, and what lies under them unless it is the artefact.

    Only once a manifest stands: a claim that is gone before would let two writers have the same names.
    """
    if published.root:
        for path in _claim_at(storage, uri)[1]:
            storage.delete(join(uri, path))
    storage.delete(join(uri, CLAIM))
