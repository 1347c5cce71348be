"""Artefacts: folders of immutable files that exist once their `manifest.json` does.

`publish` writes the files and, last, the manifest by conditional put; `fetch` brings an artefact to this machine
and verifies it. A folder without manifest (a Hugging Face model, a problem file) can be an input too; its digest is
then taken from its content.

Two writers never put different bytes under one name. Before its first file a writer claims the plain names by a
conditional put of `claim.json`, which says the digest of all its files; who finds the claim of another content writes
below `files-<digest>/`, and the manifest says so (`root`). So the manifest that wins describes the bytes that are
there, and all that this needs of a store is the conditional put of a small object. How several ranks write one artefact
stands in `parts.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from psr_runtime.errors import DataError, InputMissing
from psr_runtime.hashes import HashName, digest_of, digests_of, has_blake3
from psr_runtime.pruned import missing_explained
from psr_runtime.storage import NotFound, Storage, join, name_below

MANIFEST = "manifest.json"
CLAIM = "claim.json"
"""Beside the files until the manifest stands: whose content has the plain names."""
PARALLEL = 8


def below(path: str) -> str:
    """A path below a folder, checked: it does not leave the folder.

    Raises:
        ValueError: it does, or is empty.
    """
    if "\0" in path or {"", ".", ".."} & set(path.split("/")):
        raise ValueError(f"{path!r} does not stay below the artefact's folder")
    return path


class FileEntry(BaseModel):
    """One file of an artefact: path below its folder, size in bytes, digests in hexadecimal.

    Attributes:
        sha256: names the content.
        composite_blake3: verifies it sooner (`hashes.py`); None, and no field of the JSON, where the writer could not
            compute it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Annotated[str, AfterValidator(below)]
    size: int
    sha256: str
    composite_blake3: str | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = plain(self)
        if self.composite_blake3 is None:
            del document["composite_blake3"]
        return document

    @property
    def expected(self) -> tuple[HashName, str]:
        """The hash by which the file is verified on this machine, and the digest that it must give."""
        if self.composite_blake3 is not None and has_blake3():
            return "composite_blake3", self.composite_blake3
        return "sha256", self.sha256


class InputEntry(BaseModel):
    """One input of an artefact: where it was read and the digest of what was read (lineage)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    uri: str
    digest: str


class Manifest(BaseModel):
    """`manifest.json`: what an artefact is made of and from. Two runs of the same work write the same bytes.

    Attributes:
        root: folder below the artefact's that holds the files; empty where they have their plain names.
    """

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
    root: Annotated[str, AfterValidator(lambda root: root and below(root))] = ""

    def to_bytes(self) -> bytes:
        document = self.model_dump(mode="json", exclude=None if self.root else {"root"})
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()

    def place(self, uri: str, path: str) -> str:
        """URI of a file or folder of the artefact at `uri`."""
        return join(uri, *filter(None, (self.root, path)))

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
    names = [name for name in places if is_content(name)]
    if not names:
        raise InputMissing(f"{uri}: nothing is there; check the URI, or wait for the stage that writes it")
    with ThreadPoolExecutor(PARALLEL) as pool:
        contents = pool.map(storage.sha256, [places[name] for name in names])
        return digest_of_content(dict(zip(names, contents, strict=True)))


def is_content(name: str) -> bool:
    """Whether a file of a folder without manifest counts: hidden ones (`.git`, `.cache`) do not."""
    return not any(part.startswith(".") for part in name.split("/"))


def digest_of_content(files: Mapping[str, str]) -> str:
    """Digest of a folder without manifest: of its files' names and their sha256."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\0{files[name]}\n".encode("utf-8", "surrogateescape"))
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

    Once a manifest stands nothing is written any more, and what a writer who was not first has written is removed.

    Returns:
        The manifest that stands at `uri` afterwards: ours, or that of a writer who was first with the same digest.

    Raises:
        DataError: somebody published another digest there first.
    """
    standing = read_manifest(storage, uri)
    if standing is not None:
        return _expected(uri, digest, standing)
    entries = entries_of(folder)
    for name in {MANIFEST, CLAIM} & {entry.path for entry in entries}:
        raise ValueError(f"stage {stage} made a file {name} of its own; that name is taken")
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


def _expected(uri: str, digest: str, standing: Manifest) -> Manifest:
    if standing.digest != digest:
        raise DataError(other_digest(uri, digest, standing.digest))
    return standing


# --- the steps of publishing -------------------------------------------------------------------------------


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
        found = json.loads(storage.read(join(uri, CLAIM)))
        return str(found["content"]), [below(str(path)) for path in found["files"]]
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
    standing = _parse(data if storage.create(place, data) else storage.read(place), place)
    if standing.root != manifest.root:
        if manifest.root:
            storage.delete_folder(join(uri, manifest.root))
        else:
            for entry in manifest.files:
                storage.delete(join(uri, entry.path))
    clear_claim(storage, uri, standing)
    return _expected(uri, manifest.digest, standing)


def clear_claim(storage: Storage, uri: str, standing: Manifest) -> None:
    """Remove the claim on the plain names at `uri`, and what lies under them unless it is the artefact.

    Only once a manifest stands: a claim that is gone before would let two writers have the same names.
    """
    if standing.root:
        for path in _claim_at(storage, uri)[1]:
            storage.delete(join(uri, path))
    storage.delete(join(uri, CLAIM))


# --- what cannot be ----------------------------------------------------------------------------------------


def other_digest(uri: str, wanted: str, found: str) -> str:
    """The message for an output that holds the result of another configuration."""
    return (
        f"{uri}: holds the result of another configuration ({found}, this one is {wanted}); "
        "give the object another name or output, or set rerun where it has one"
    )


def fetch(
    storage: Storage, uri: str, to: Path, *, below: str = "", only: Callable[[str], bool] = lambda path: True
) -> Path:
    """Bring an artefact's files to this machine and verify size and digest of each, by BLAKE3 where the manifest says
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

    def bring(entry: FileEntry) -> None:
        path, origin = root / entry.path, manifest.place(uri, entry.path)
        if place is not None:
            _verify(path, entry, origin)
            return
        name, digest = entry.expected
        if not (path.is_file() and path.stat().st_size == entry.size and digest_of(path, name) == digest):
            found = storage.download(origin, path, hash=name)
            _fits(origin, entry, path.stat().st_size, found)

    with ThreadPoolExecutor(PARALLEL) as pool:
        for done in [pool.submit(bring, entry) for entry in entries]:
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
    _fits(uri, entry, size, digest_of(path, entry.expected[0]) if size == entry.size else "")


def _fits(uri: str, entry: FileEntry, size: int, found: str) -> None:
    """Compare size and digest, by `entry.expected`, with the manifest."""
    if size != entry.size:
        raise DataError(f"{uri}: {size} bytes where the manifest says {entry.size}; the file is truncated or foreign")
    name, digest = entry.expected
    if found != digest:
        raise DataError(f"{uri}: {name} {found} where the manifest says {digest}; the file was changed")
