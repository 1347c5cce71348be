"""The stores of a stage behind one interface: a URI's scheme names its store.

Names below a URI are plain text: `join` encodes them where the scheme does, `name_below` decodes them. What a scheme
implements stands in `store.py`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from psr_runtime.config import StorageAccess
from psr_runtime.config.plugins import Registry
from psr_runtime.protocol import MOUNTS_VARIABLE
from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.storage.files import mounts_from
from psr_runtime.storage.hashes import HashName, sha256_of
from psr_runtime.storage.store import Scheme, Store, StoredObject, Versioned

SCHEMES: Registry[Scheme] = Registry(
    "psr.storage",
    "URI scheme",
    {
        "file": "psr_runtime.storage.files:FileStore",
        "s3": "psr_runtime.storage.s3:S3Store",
        "hf": "psr_runtime.storage.hub:HubStore",
    },
)


class Storage:
    """The stores of a stage, by scheme. Thread-safe.

    Besides what each method says, all raise:
        ConfigurationError: a scheme that nobody brings.
        NotFound: no such object.
        InputMissing: the object cannot be reached: credentials refused, no such bucket, no permission.
        Interrupted: the disk is full, or the service does not answer.

    Args:
        access: endpoint, region and address style for the schemes that have them.
        mounts: mount path -> folder, for URIs under a volume of the manifest; unset: `PSR_MOUNTS`.
    """

    def __init__(self, access: StorageAccess | None = None, mounts: Mapping[str, Path] | None = None) -> None:
        self._access = access or StorageAccess()
        self._mounts = mounts if mounts is not None else mounts_from(os.environ.get(MOUNTS_VARIABLE, ""))
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    def _store(self, uri: str) -> Store:
        name = scheme_name(uri)
        with self._lock:
            if name not in self._stores:
                self._stores[name] = _scheme(uri)(self._access, self._mounts)
            return self._stores[name]

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
        """Put a file's content, whole or not at all. The same content that is there already is left untouched; to S3 a
        call that was cut off is continued.

        Args:
            sha256: of the content, where the caller has it.
            move: nobody changes the file afterwards, so on this machine it may be linked instead of copied.
        """
        self._store(uri).upload(path, uri, sha256 or sha256_of(path), move)

    def download(self, uri: str, path: Path, *, hash: HashName = "sha256") -> str:
        """Fetch an object's content into a file of this machine; its digest by `hash`, 64 hexadecimal digits.

        From S3 a call that was cut off is continued: the parts that came stay beside the file until it is whole.
        """
        return self._store(uri).download(uri, path, hash)

    def exists(self, uri: str) -> bool:
        """Whether an object (not a folder) is there."""
        first = next(self._store(uri).list(uri), None)  # an object sorts before all whose names begin with its own
        return first is not None and first.uri == uri

    def moves(self, uri: str) -> bool:
        """Whether a URI names a version that may become another, a branch say."""
        store = self._store(uri)
        return isinstance(store, Versioned) and store.moves(uri)

    def resolve(self, uri: str) -> str:
        """The URI with what it names fixed, where its store has versions: a branch becomes a commit. Else itself."""
        store = self._store(uri)
        return store.resolve(uri) if isinstance(store, Versioned) else uri

    def version(self, uri: str) -> str | None:
        """Digest of the version that a URI names, `sha256:…`; None where its store has no versions."""
        store = self._store(uri)
        return store.version(uri) if isinstance(store, Versioned) else None

    def local_path(self, uri: str) -> Path | None:
        """Where a URI lies in the file system of this machine; None for one that lies elsewhere."""
        return self._store(uri).local_path(uri)


def scheme_name(uri: str) -> str:
    """The scheme of a URI.

    Raises:
        ConfigurationError: it has none.
    """
    name, separator, _ = uri.partition("://")
    if not separator:
        raise ConfigurationError(f"{uri}: no URI; write it with its scheme, as in file:///folder")
    return name


def join(uri: str, *parts: str) -> str:
    """`uri` with the plain names `parts` below it, one slash between."""
    encode = quote if _scheme(uri).encodes_names else str
    return "/".join([uri.rstrip("/"), *(encode(part.strip("/")) for part in parts)])


def name_below(uri: str, item: str) -> str:
    """The plain name of a listed object relative to the folder `uri`; empty for the object itself."""
    rest = item[len(uri.rstrip("/")) :].lstrip("/")
    return os.fsdecode(unquote_to_bytes(rest)) if _scheme(uri).encodes_names else rest


def _scheme(uri: str) -> Scheme:
    name = scheme_name(uri)
    try:
        return SCHEMES.load(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{uri}: {error}") from error
