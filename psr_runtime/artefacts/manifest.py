"""`manifest.json`: what an artefact consists of and comes from. A folder without one holds no artefact.

A folder without manifest (a Hugging Face model, a problem file) can be an input too; its digest is then taken from its
content. How artefacts are written stands in `publishing.py`, how they are read in `fetching.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from psr_runtime.protocol.errors import DataError, InputMissing
from psr_runtime.storage import NotFound, Storage, join, name_below
from psr_runtime.storage.hashes import HashName, has_blake3
from psr_runtime.storage.nearby import instead

MANIFEST = "manifest.json"
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
    """`manifest.json`: what an artefact consists of and comes from. Two runs of the same work write the same bytes.

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
        InputMissing: nobody knows, as the place cannot be reached (credentials, bucket, permission).
        DataError: the manifest is there and cannot be read.
    """
    place = join(uri, MANIFEST)
    try:
        data = storage.read(place)
    except NotFound:
        return None
    return parse_manifest(data, place)


def parse_manifest(data: bytes, place: str) -> Manifest:
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
        raise InputMissing(
            f"{uri}: no {MANIFEST}; the stage that makes it ({' or '.join(stages)}) has not finished"
            f"{instead(storage, uri)}"
        )
    if manifest.stage not in stages:
        raise DataError(f"{uri}: made by stage {manifest.stage}, not by {' or '.join(stages)}")
    return manifest


def digest_of_input(storage: Storage, uri: str) -> str:
    """Digest of an input: its version where its store has versions (the commit of a hub), its manifest's identity, or
    of its content where it has no manifest.

    Content is names and bytes of the files below `uri`, the same on every store. Hidden files (`.git`, `.cache`) are
    no content.

    Raises:
        InputMissing: nothing is there.
    """
    version = storage.version(uri)
    if version is not None:
        return version
    manifest = read_manifest(storage, uri)
    if manifest is not None:
        return manifest.identity
    places = {name_below(uri, item.uri): item.uri for item in storage.list(uri)}
    names = [name for name in places if is_content(name)]
    if not names:
        raise InputMissing(
            f"{uri}: nothing is there; check the URI, or wait for the stage that writes it{instead(storage, uri)}"
        )
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
