"""Artefacts: folders of immutable files that exist once their `manifest.json` does.

`publish` writes the files and, last, the manifest by conditional put; `fetch` brings an artefact to this machine
and verifies it. A folder without manifest (a Hugging Face model, a problem file) can be an input too; its digest is
then taken from its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from psr_runtime.errors import DataError, InputMissing
from psr_runtime.storage import NotFound, Storage, join, name_below, sha256_of

MANIFEST = "manifest.json"
PARALLEL = 8


def _below(path: str) -> str:
    if "\0" in path or {"", ".", ".."} & set(path.split("/")):
        raise ValueError(f"{path!r} does not stay below the artefact's folder")
    return path


class FileEntry(BaseModel):
    """One file of an artefact: path below its folder, size in bytes, sha256 in hexadecimal."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Annotated[str, AfterValidator(_below)]
    size: int
    sha256: str


class InputEntry(BaseModel):
    """One input of an artefact: where it was read and the digest of what was read (lineage)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    uri: str
    digest: str


class Manifest(BaseModel):
    """`manifest.json`: what an artefact is made of and from. Two runs of the same work write the same bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    schema_version: int
    digest: str
    files: list[FileEntry]
    inputs: dict[str, InputEntry]
    configuration: dict[str, Any]
    versions: dict[str, str]
    metadata: dict[str, Any]
    result: dict[str, Any]

    def to_bytes(self) -> bytes:
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()

    @property
    def identity(self) -> str:
        """sha256 of the manifest's bytes: the digest by which later stages name this artefact."""
        return "sha256:" + hashlib.sha256(self.to_bytes()).hexdigest()


def read_manifest(storage: Storage, uri: str) -> Manifest | None:
    """The manifest of an artefact, or None where none was published.

    Raises:
        InputMissing: it cannot be told, as the place cannot be reached (credentials, bucket, permission).
        DataError: the manifest is there and cannot be read.
    """
    place = join(uri, MANIFEST)
    try:
        data = storage.read(place)
    except NotFound:
        return None
    return _parse(data, place)


def _parse(data: bytes, place: str) -> Manifest:
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DataError(f"{place}: {where}: {first['msg']}; this is no manifest of an artefact") from error


def require_manifest(storage: Storage, uri: str, stages: tuple[str, ...]) -> Manifest:
    """The manifest of an artefact that one of `stages` made.

    Raises:
        InputMissing: nothing was published there.
        DataError: another stage made it.
    """
    manifest = read_manifest(storage, uri)
    if manifest is None:
        raise InputMissing(f"{uri}: no {MANIFEST}; the stage that makes it ({' or '.join(stages)}) has not finished")
    if manifest.stage not in stages:
        raise DataError(f"{uri}: made by stage {manifest.stage}, not by {' or '.join(stages)}")
    return manifest


def digest_of_input(storage: Storage, uri: str) -> str:
    """Digest of an input: its manifest's identity, or of its content where it has no manifest.

    Content is names and bytes of the files below `uri`, the same on every store. Hidden files (`.git`, `.cache`) are
    no content.

    Raises:
        InputMissing: nothing is there.
    """
    manifest = read_manifest(storage, uri)
    if manifest is not None:
        return manifest.identity
    places = {name_below(uri, item.uri): item.uri for item in storage.list(uri)}
    names = sorted(name for name in places if not any(part.startswith(".") for part in name.split("/")))
    if not names:
        raise InputMissing(f"{uri}: nothing is there; check the URI, or wait for the stage that writes it")
    total = hashlib.sha256()
    with ThreadPoolExecutor(PARALLEL) as pool:
        contents = pool.map(storage.sha256, [places[name] for name in names])
        for name, content in zip(names, contents, strict=True):
            total.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return "sha256:" + total.hexdigest()


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

    Once a manifest stands nothing is written any more. That is looked at before each file, not in one step with it:
    two live writers whose contents differ are for the caller to rule out (one attempt at a time, `owner.json`).

    Returns:
        The manifest that stands at `uri` afterwards: ours, or that of a writer who was first with the same digest.

    Raises:
        DataError: somebody published another digest there first.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if MANIFEST in paths:
        raise ValueError(f"stage {stage} made a file {MANIFEST} of its own; that name is taken")
    storage.sweep(uri)

    def enter(name: str) -> FileEntry:
        return FileEntry(path=name, size=paths[name].stat().st_size, sha256=sha256_of(paths[name]))

    def upload(entry: FileEntry) -> None:
        if read_manifest(storage, uri) is None:
            storage.upload(paths[entry.path], join(uri, entry.path), sha256=entry.sha256, move=True)

    with ThreadPoolExecutor(PARALLEL) as pool:
        entries = list(pool.map(enter, paths))
        list(pool.map(upload, entries))
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
    )
    place = join(uri, MANIFEST)
    data = manifest.to_bytes()
    standing = _parse(data if storage.create(place, data) else storage.read(place), place)
    if standing.digest != digest:
        raise DataError(other_digest(uri, digest, standing.digest))
    return standing  # as a later reader finds it, not as it was handed in


def other_digest(uri: str, wanted: str, found: str) -> str:
    """The message for an output that holds the result of another configuration."""
    return (
        f"{uri}: holds the result of another configuration ({found}, this one is {wanted}); "
        "give the object another name or output, or set rerun where it has one"
    )


def fetch(storage: Storage, uri: str, to: Path, *, below: str = "") -> Path:
    """Bring an artefact's files to this machine and verify size and sha256 of each.

    A `file://` artefact is verified where it lies and not copied; others are downloaded to `to`, files that are there
    already with the right content are kept.

    Args:
        below: only files under this folder of the artefact.

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
    entries = [entry for entry in manifest.files if entry.path.startswith(prefix)]
    if not entries:
        raise InputMissing(f"{uri}: the artefact has no files under {below or 'it'}")
    place = storage.local_path(uri)
    root = place if place is not None else to

    def bring(entry: FileEntry) -> None:
        path = root / entry.path
        if place is None:
            if path.is_file() and path.stat().st_size == entry.size and sha256_of(path) == entry.sha256:
                return
            storage.download(join(uri, entry.path), path)
        _verify(path, entry, join(uri, entry.path))

    with ThreadPoolExecutor(PARALLEL) as pool:
        for done in [pool.submit(bring, entry) for entry in entries]:
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
    if entry is None:
        raise InputMissing(f"{uri}: holds no artefact with a file {name}")
    content = storage.read(join(uri, name))
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise DataError(f"{join(uri, name)}: does not have the sha256 that the manifest says; the file was changed")
    return content


def _verify(path: Path, entry: FileEntry, uri: str) -> None:
    if not path.is_file():
        raise InputMissing(f"{uri}: the manifest lists this file and it is gone; make the artefact again")
    size = path.stat().st_size
    if size != entry.size:
        raise DataError(f"{uri}: {size} bytes where the manifest says {entry.size}; the file is truncated or foreign")
    found = sha256_of(path)
    if found != entry.sha256:
        raise DataError(f"{uri}: sha256 {found} where the manifest says {entry.sha256}; the file was changed")
