"""Bytes by URI: `file://` and `s3://` behind one small interface.

What belongs here: reading, writing, conditional creation, listing and transfer of single objects, and the
translation of storage errors into the stage contract's. What an artefact is stands in `artefact.py`, the S3 client
in `s3.py`.

Names below a URI are plain text: `join` and `Storage.list` percent-encode them for `file://` (RFC 8089) and leave
them alone for `s3://`, whose keys are taken literally. `PSR_MOUNTS` (`/mount=/folder,…`) maps `file://` URIs of a
manifest to folders of this machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from psr_runtime.config import StorageAccess
from psr_runtime.protocol import MOUNTS_VARIABLE
from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.storage.files import FileStore, Store, StoredObject
from psr_runtime.storage.files import NotFound as NotFound
from psr_runtime.storage.hashes import HashName
from psr_runtime.storage.hashes import sha256_of as sha256_of


class Storage:
    """The stores of a stage, by scheme. Thread-safe.

    Besides what each method says, all raise:
        NotFound: no such object.
        InputMissing: the object cannot be reached: credentials refused, no such bucket, no permission.
        Interrupted: the disk is full, or the service does not answer.

    Args:
        access: endpoint, region and address style for `s3://`.
        mounts: mount path -> folder, for `file://` URIs under a volume of the manifest.
    """

    def __init__(self, access: StorageAccess | None = None, mounts: Mapping[str, Path] | None = None) -> None:
        self._access = access or StorageAccess()
        self._file = FileStore(mounts if mounts is not None else mounts_from(os.environ.get(MOUNTS_VARIABLE, "")))
        self._s3: Store | None = None
        self._lock = threading.Lock()

    def _store(self, uri: str) -> Store:
        if uri.startswith("file:///"):
            return self._file
        if uri.startswith("s3://"):
            with self._lock:
                if self._s3 is None:
                    from psr_runtime.storage.s3 import S3Store

                    self._s3 = S3Store(self._access)
                return self._s3
        raise ConfigurationError(f"{uri}: only file:/// and s3:// URIs are known; give one of these")

    def read(self, uri: str) -> bytes:
        """The whole content of an object."""
        return self._store(uri).read(uri)

    def write(self, uri: str, data: bytes) -> None:
        """Put an object, whole or not at all; what was there is replaced."""
        self._store(uri).write(uri, data)

    def create(self, uri: str, data: bytes) -> bool:
        """Put an object only if nothing is there (If-None-Match: *). False: something was, and stays.

        False can mean that our own first attempt arrived and its answer was lost: a caller who must know compares
        the content.
        """
        return self._store(uri).create(uri, data)

    def list(self, uri: str) -> list[StoredObject]:
        """Objects below a folder (or the object itself), sorted by URI. Nothing there: empty."""
        return sorted(self._store(uri).list(uri), key=lambda item: item.uri)

    def delete(self, uri: str) -> None:
        """Remove one object; one that is gone already is no error."""
        self._store(uri).delete(uri)

    def delete_folder(self, uri: str) -> None:
        """Remove everything below a folder; one that is gone already is no error."""
        self._store(uri).delete_folder(uri)

    def sweep(self, uri: str) -> None:
        """Remove what writers that were killed left half-written below a folder. Nothing of it was ever visible.

        On S3 these are multipart uploads that were begun more than a day ago; younger ones can be continued.
        """
        self._store(uri).sweep(uri)

    def sha256(self, uri: str) -> str:
        """SHA-256 of an object's content, 64 hexadecimal digits."""
        return self._store(uri).sha256(uri)

    def upload(self, path: Path, uri: str, *, sha256: str | None = None, move: bool = False) -> None:
        """Put a file's content, whole or not at all. The same content that is there already is left untouched, and to
        `s3://` a call that was cut off is continued.

        Args:
            sha256: of the content, where the caller has it.
            move: nobody changes the file afterwards, so on `file://` it may be linked instead of copied.
        """
        self._store(uri).upload(path, uri, sha256 or sha256_of(path), move)

    def download(self, uri: str, path: Path, *, hash: HashName = "sha256") -> str:
        """Bring an object's content into a file of this machine; its digest by `hash`, 64 hexadecimal digits.

        From `s3://` a call that was cut off is continued: the parts that came stay beside the file until it is whole.
        """
        return self._store(uri).download(uri, path, hash)

    def exists(self, uri: str) -> bool:
        """Whether an object (not a folder) is there."""
        first = next(self._store(uri).list(uri), None)  # an object sorts before all whose names begin with its own
        return first is not None and first.uri == uri

    def local_path(self, uri: str) -> Path | None:
        """The path of a `file://` URI on this machine; None for other schemes."""
        return self._file.path(uri) if uri.startswith("file:///") else None


def join(uri: str, *parts: str) -> str:
    """`uri` with the plain names `parts` below it, one slash between."""
    encode = quote if uri.startswith("file:") else str
    return "/".join([uri.rstrip("/"), *(encode(part.strip("/")) for part in parts)])


def name_below(uri: str, item: str) -> str:
    """The plain name of a listed object relative to the folder `uri`; empty for the object itself."""
    rest = item[len(uri.rstrip("/")) :].lstrip("/")
    return os.fsdecode(unquote_to_bytes(rest)) if uri.startswith("file:") else rest


def file_uri(path: Path | str) -> str:
    """The `file://` URI of a path."""
    return Path(path).absolute().as_uri()


def mounts_from(text: str) -> dict[str, Path]:
    """Parse `PSR_MOUNTS`: `/mount=/folder`, several separated by commas."""
    mounts = {}
    for entry in filter(None, text.split(",")):
        mount, equals, folder = entry.partition("=")
        if not equals or not mount.startswith("/"):
            raise ConfigurationError(f"mount {entry!r}: write it as /mount/path=FOLDER")
        mounts[mount.rstrip("/")] = Path(folder).absolute()
    return mounts
