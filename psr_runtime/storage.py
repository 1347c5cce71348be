"""Bytes by URI: `file://` and `s3://` behind one small interface.

What belongs here: reading, writing, conditional creation, listing and transfer of single objects, and the
translation of storage errors into the stage contract's. What an artefact is stands in `artefact.py`, the S3 client
in `s3.py`.

Names below a URI are plain text: `join` and `Storage.list` percent-encode them for `file://` (RFC 8089) and leave
them alone for `s3://`, whose keys are taken literally. `PSR_MOUNTS` (`/mount=/folder,…`) maps `file://` URIs of a
manifest to folders of this machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

from psr_runtime.config import StorageAccess
from psr_runtime.errors import ConfigurationError, InputMissing, Interrupted

CHUNK = 1 << 20


class NotFound(InputMissing):
    """There is no such object, in a place that can be read: not the same as being refused."""


@dataclass(frozen=True)
class StoredObject:
    """One object below a prefix: its URI and its size in bytes."""

    uri: str
    size: int


class Store(Protocol):
    """What each scheme implements. All methods take full URIs; a missing object raises `NotFound`."""

    def read(self, uri: str) -> bytes: ...
    def write(self, uri: str, data: bytes) -> None: ...
    def create(self, uri: str, data: bytes) -> bool: ...
    def list(self, uri: str) -> Iterator[StoredObject]: ...
    def delete(self, uri: str) -> None: ...
    def delete_folder(self, uri: str) -> None: ...
    def sweep(self, uri: str) -> None: ...
    def sha256(self, uri: str) -> str: ...
    def upload(self, path: Path, uri: str, sha256: str, move: bool) -> None: ...
    def download(self, uri: str, path: Path) -> None: ...


class Storage:
    """The stores of a stage, by scheme. Thread-safe.

    Besides what each method says, all raise:
        NotFound: no such object.
        InputMissing: the object cannot be reached: credentials refused, no such bucket, no permission.
        Interrupted: the disk is full, or the service does not answer.

    Args:
        access: endpoint and region for `s3://`.
        mounts: mount path -> folder, for `file://` URIs under a volume of the manifest.
    """

    def __init__(self, access: StorageAccess | None = None, mounts: Mapping[str, Path] | None = None) -> None:
        self._access = access or StorageAccess()
        self._file = FileStore(mounts if mounts is not None else mounts_from(os.environ.get("PSR_MOUNTS", "")))
        self._s3: Store | None = None
        self._lock = threading.Lock()

    def _store(self, uri: str) -> Store:
        if uri.startswith("file:///"):
            return self._file
        if uri.startswith("s3://"):
            with self._lock:
                if self._s3 is None:
                    from psr_runtime.s3 import S3Store

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

        On S3 that is the service's own work: unfinished multipart uploads end by the bucket's lifecycle rule.
        """
        self._store(uri).sweep(uri)

    def sha256(self, uri: str) -> str:
        """SHA-256 of an object's content, 64 hexadecimal digits."""
        return self._store(uri).sha256(uri)

    def upload(self, path: Path, uri: str, *, sha256: str | None = None, move: bool = False) -> None:
        """Put a file's content, whole or not at all. The same content that is there already is left untouched.

        Args:
            sha256: of the content, where the caller has it.
            move: nobody changes the file afterwards, so on `file://` it may be linked instead of copied.
        """
        self._store(uri).upload(path, uri, sha256 or sha256_of(path), move)

    def download(self, uri: str, path: Path) -> None:
        """Bring an object's content into a file of this machine."""
        self._store(uri).download(uri, path)

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


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mounts_from(text: str) -> dict[str, Path]:
    """Parse `PSR_MOUNTS`: `/mount=/folder`, several separated by commas."""
    mounts = {}
    for entry in filter(None, text.split(",")):
        mount, equals, folder = entry.partition("=")
        if not equals or not mount.startswith("/"):
            raise ConfigurationError(f"mount {entry!r}: write it as /mount/path=FOLDER")
        mounts[mount.rstrip("/")] = Path(folder).absolute()
    return mounts


# --- file:// -----------------------------------------------------------------------------------------------


class FileStore:
    """`file://`: every write is a temporary file, flushed to disk and renamed or linked into place.

    Entries of folders are flushed too, so what has returned survives a loss of power.
    """

    def __init__(self, mounts: Mapping[str, Path]) -> None:
        self._mounts = sorted(mounts.items(), key=lambda mount: -len(mount[0]))  # the innermost mount counts

    def path(self, uri: str) -> Path:
        path = os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
        for mount, folder in self._mounts:
            if path == mount or path.startswith(mount + "/"):
                return folder / path[len(mount) :].lstrip("/")
        return Path(path)

    def read(self, uri: str) -> bytes:
        with file_errors(uri):
            return self.path(uri).read_bytes()

    def write(self, uri: str, data: bytes) -> None:
        path = self.path(uri)
        with file_errors(uri), _temporary_beside(path) as temporary:
            _write_durably(temporary, data)
            os.replace(temporary, path)
            sync_folder(path.parent)

    def create(self, uri: str, data: bytes) -> bool:
        path = self.path(uri)
        with file_errors(uri), _temporary_beside(path) as temporary:
            _write_durably(temporary, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                # Over NFS the answer to a link that was made can be lost; the second name tells.
                return os.stat(temporary).st_nlink == 2
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise ConfigurationError(
                        f"{uri}: this file system has no hard links, so nothing can be created there exactly once; "
                        "choose another volume or s3://"
                    ) from error
                raise
            sync_folder(path.parent)
            return True

    def list(self, uri: str) -> Iterator[StoredObject]:
        root = self.path(uri)
        base = uri.rstrip("/")
        with file_errors(uri):
            if root.is_file():
                yield StoredObject(base, root.stat().st_size)
                return
            for folder, _, names in os.walk(root, onerror=_unless_gone):
                for name in names:
                    path = Path(folder, name)
                    if not name.startswith(TEMPORARY):
                        relative = quote(os.fsencode(path.relative_to(root)))
                        yield StoredObject(f"{base}/{relative}", path.stat().st_size)

    def delete(self, uri: str) -> None:
        with file_errors(uri):
            path = self.path(uri)
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # an empty folder means nothing, as on S3

    def delete_folder(self, uri: str) -> None:
        with file_errors(uri), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path(uri))

    def sweep(self, uri: str) -> None:
        with file_errors(uri):
            for folder, _, names in os.walk(self.path(uri), onerror=_unless_gone):
                for name in names:
                    if name.startswith(TEMPORARY):
                        _unlink_if_abandoned(Path(folder, name))

    def sha256(self, uri: str) -> str:
        with file_errors(uri):
            return sha256_of(self.path(uri))

    def upload(self, path: Path, uri: str, sha256: str, move: bool) -> None:
        target = self.path(uri)
        with file_errors(uri):
            if target.is_file() and target.stat().st_size == path.stat().st_size and sha256_of(target) == sha256:
                return
            if move and _move_by_link(path, target):
                return
            with _temporary_beside(target) as temporary:
                with open(path, "rb") as source, open(temporary, "wb") as copy:
                    shutil.copyfileobj(source, copy, CHUNK)
                    copy.flush()
                    os.fsync(copy.fileno())
                os.replace(temporary, target)
                sync_folder(target.parent)

    def download(self, uri: str, path: Path) -> None:
        with file_errors(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path(uri), path)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, their entries flushed to disk."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for item in reversed(missing):
        item.mkdir(exist_ok=True)
        sync_folder(item.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk: files created, renamed or linked in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def file_errors(uri: str) -> Iterator[None]:
    """Translate the operating system's errors about `uri` into the stage contract's."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{uri}: no such file ({error.filename})") from error
    except (IsADirectoryError, FileExistsError) as error:
        raise InputMissing(f"{uri}: {error.filename}: {error.strerror}; a file and a folder are mixed up") from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise Interrupted(f"{uri}: no space left on the device; free some and run it again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputMissing(f"{uri}: {error.strerror} ({error.filename}); check owner, mode and mount") from error
        raise


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

TEMPORARY = ".psr-partial-"
"""Beginning of the names of half-written files. Each is locked by its writer for as long as that lives."""


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    while True:
        make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):  # an empty folder was removed meanwhile
            handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
            with contextlib.suppress(OSError):  # a file system without locks: then nothing is ever swept
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:  # not swept before it was locked
                break
            os.close(handle)
    try:
        os.fchmod(handle, 0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        os.close(handle)


def _unlink_if_abandoned(path: Path) -> None:
    """Remove a half-written file unless its writer lives and holds the lock."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _move_by_link(path: Path, target: Path) -> bool:
    """Give a file that nobody else names its final name, without copying it. False: it has to be copied."""
    if path.is_symlink() or path.stat().st_nlink != 1:
        return False
    make_folder(target.parent)
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        return False  # another file system, or one without hard links
    with open(target, "rb") as file:
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    sync_folder(target.parent)
    return True


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _unless_gone(error: OSError) -> None:
    """For walks: a folder that vanished holds nothing; one that cannot be read is an error."""
    if not isinstance(error, FileNotFoundError):
        raise error
