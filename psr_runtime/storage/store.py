"""What a storage scheme implements. `file://` and `s3://` are ours; a package may bring others.

A scheme is a class with the methods of `Store`, called with access and mounts, under its name in the entry-point group
`psr.storage`:

    [project.entry-points."psr.storage"]
    gs = "my_package.storage:GoogleStore"

All URIs are full ones, `gs://bucket/path/to/object`. There are objects, no folders: a folder is what the names of
objects have in common up to a slash, and an empty one does not exist. What every artefact rests on: an object appears
whole or not at all, what has returned is durable, a reader sees what was written before it began, and `create` puts
an object exactly once, however many call it at a time.

Errors are the stage contract's (`psr_runtime.protocol.errors`): `NotFound` for an object that is not there,
`InputMissing` for a place that cannot be reached with these credentials, `ConfigurationError` for an endpoint that is
malformed, `Interrupted` for what may work later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from psr_runtime.config import StorageAccess
from psr_runtime.protocol.errors import InputMissing
from psr_runtime.storage.hashes import HashName


class NotFound(InputMissing):
    """There is no such object, in a place that can be read: not the same as being refused."""


@dataclass(frozen=True)
class StoredObject:
    """One object below a prefix: its URI and its size in bytes."""

    uri: str
    size: int


class Store(Protocol):
    """The objects of one scheme. Every method may be called by several threads at a time.

    Attributes:
        encodes_names: whether names in a URI are percent-encoded (RFC 3986); else they are taken literally.
    """

    encodes_names: ClassVar[bool]

    def local_path(self, uri: str) -> Path | None:
        """Where an object or folder lies in the file system of this machine; None for a store that is elsewhere."""
        ...

    def read(self, uri: str) -> bytes:
        """The whole content of an object."""
        ...

    def write(self, uri: str, data: bytes) -> None:
        """Put an object; what was there is replaced."""
        ...

    def create(self, uri: str, data: bytes) -> bool:
        """Put an object only if nothing is there. False: something was, and stays (perhaps from this very call, if
        its first answer was lost)."""
        ...

    def list(self, uri: str) -> Iterator[StoredObject]:
        """Objects below a folder, or the object itself, which then comes first. Nothing there: none."""
        ...

    def delete(self, uri: str) -> None:
        """Remove an object; one that is gone already is no error."""
        ...

    def delete_folder(self, uri: str) -> None:
        """Remove everything below a folder; one that is gone already is no error."""
        ...

    def sweep(self, uri: str) -> None:
        """Remove what killed writers left half-written below a folder and nobody can see."""
        ...

    def sha256(self, uri: str) -> str:
        """SHA-256 of an object's content, 64 hexadecimal digits."""
        ...

    def upload(self, path: Path, uri: str, sha256: str, move: bool) -> None:
        """Put a file's content; an object that has it already may be left untouched.

        Args:
            sha256: of the content.
            move: nobody changes the file afterwards, so a store on this machine may link it.
        """
        ...

    def download(self, uri: str, path: Path, hash: HashName) -> str:
        """Write an object's content to a file, whose folder may be missing; its digest by `hash`, in hexadecimal."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """What a store has besides, whose URIs may name something that moves: a branch of a repository."""

    def moves(self, uri: str) -> bool:
        """Whether a URI may name other content tomorrow. Nothing is asked of the store for that."""
        ...

    def resolve(self, uri: str) -> str:
        """The URI with what it names fixed: it names the same content for ever."""
        ...

    def version(self, uri: str) -> str:
        """Digest of what a URI names, `sha256:` and 64 hexadecimal digits, without reading the content."""
        ...


class Scheme(Protocol):
    """What a scheme's name stands for: the class of its store.

    Attributes:
        encodes_names: as in `Store`; asked for without a store.
    """

    encodes_names: bool

    def __call__(self, access: StorageAccess, mounts: Mapping[str, Path]) -> Store:
        """A store.

        Args:
            access: endpoint, region and style of address, as `spec.storage` says; credentials come from the
                environment or the pod's identity.
            mounts: mount path -> folder of this machine, for schemes that lie in its file system.
        """
        ...
