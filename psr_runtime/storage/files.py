"""`file://` as a store: a folder of this machine, a volume of a pod.

Names in a URI are percent-encoded (RFC 8089). `PSR_MOUNTS` (`/mount=/folder,…`) maps `file://` URIs of a manifest to
folders of this machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote_to_bytes

from psr_runtime.config import StorageAccess
from psr_runtime.protocol.errors import ConfigurationError, InputMissing, Interrupted
from psr_runtime.storage.hashes import HashName, digest_of, sha256_of
from psr_runtime.storage.store import NotFound, StoredObject

CHUNK = 1 << 20
ATTEMPTS = 100
"""How often a folder may be removed under a writer before that is an error."""


class FileStore:
    """`file://`: every write is a temporary file, flushed to disk and renamed or linked into place.

    Entries of folders are flushed too, so what has returned survives a loss of power.

    Args:
        access: of no meaning here.
        mounts: mount path -> folder, for URIs under a volume of the manifest.
    """

    encodes_names: ClassVar[bool] = True

    def __init__(self, access: StorageAccess, mounts: Mapping[str, Path]) -> None:
        self._mounts = sorted(mounts.items(), key=lambda mount: -len(mount[0]))  # the innermost mount counts

    def local_path(self, uri: str) -> Path:
        """The path of a URI.

        Raises:
            ConfigurationError: it is not `file:///…`.
        """
        if not uri.startswith("file:///"):
            raise ConfigurationError(f"{uri}: no path follows; write file:/// and the path")
        path = os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
        for mount, folder in self._mounts:
            if path == mount or path.startswith(mount + "/"):
                return folder / path[len(mount) :].lstrip("/")
        return Path(path)

    def read(self, uri: str) -> bytes:
        with file_errors(uri):
            return self.local_path(uri).read_bytes()

    def write(self, uri: str, data: bytes) -> None:
        path = self.local_path(uri)
        with file_errors(uri), _temporary_beside(path) as temporary:
            _write_durably(temporary, data)
            os.replace(temporary, path)
            sync_folder(path.parent)

    def create(self, uri: str, data: bytes) -> bool:
        path = self.local_path(uri)
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
        root = self.local_path(uri)
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
            path = self.local_path(uri)
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # an empty folder means nothing, as on S3

    def delete_folder(self, uri: str) -> None:
        with file_errors(uri), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.local_path(uri))

    def sweep(self, uri: str) -> None:
        with file_errors(uri):
            for folder, _, names in os.walk(self.local_path(uri), onerror=_unless_gone):
                for name in names:
                    if name.startswith(TEMPORARY):
                        _unlink_if_abandoned(Path(folder, name))

    def sha256(self, uri: str) -> str:
        with file_errors(uri):
            return sha256_of(self.local_path(uri))

    def upload(self, path: Path, uri: str, sha256: str, move: bool) -> None:
        target = self.local_path(uri)
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

    def download(self, uri: str, path: Path, hash: HashName) -> str:
        with file_errors(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.local_path(uri), path)
            return digest_of(path, hash)


def file_uri(path: Path | str) -> str:
    """The `file://` URI of a path."""
    return Path(path).absolute().as_uri()


def mounts_from(text: str) -> dict[str, Path]:
    """Parse `PSR_MOUNTS`: `/mount=/folder`, several separated by commas.

    Raises:
        ConfigurationError: an entry is written otherwise.
    """
    mounts = {}
    for entry in filter(None, text.split(",")):
        mount, equals, folder = entry.partition("=")
        if not equals or not mount.startswith("/"):
            raise ConfigurationError(f"mount {entry!r}: write it as /mount/path=FOLDER")
        mounts[mount.rstrip("/")] = Path(folder).absolute()
    return mounts


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
    for attempt in itertools.count(1):
        make_folder(path.parent)
        try:
            handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        except FileNotFoundError:  # an empty folder was removed meanwhile, or nothing can ever be made there (/proc)
            if attempt == ATTEMPTS:
                raise
        else:
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
    temporary = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one inode under both names: a sweep sees that its writer lives
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
        try:
            os.link(path, temporary)
            os.replace(temporary, target)  # what stood there never goes missing
        except OSError:
            temporary.unlink(missing_ok=True)
            return False  # another file system, or one without hard links
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
