"""Bytes by URI: `file://` and `s3://` behind one small interface.

What belongs here: reading, writing, conditional creation, listing and transfer of single objects, and the
translation of storage errors into the stage contract's. What an artefact is stands in `artefact.py`.

S3 is boto3 with its own parallel multipart transfer. Credentials come from the environment or the pod's identity.
`PSR_MOUNTS` (`/mount=/folder,…`) maps `file://` URIs of a manifest to folders of this machine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from psr_runtime.config import StorageAccess
from psr_runtime.errors import ConfigurationError, InputMissing, Interrupted

CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredObject:
    """One object below a prefix: its URI and its size in bytes."""

    uri: str
    size: int


class Store(Protocol):
    """What each scheme implements. All methods take full URIs; a missing object raises `InputMissing`."""

    def read(self, uri: str) -> bytes: ...
    def write(self, uri: str, data: bytes) -> None: ...
    def create(self, uri: str, data: bytes) -> bool:
        """Write only if nothing is there (If-None-Match: *). False: something was, and stays."""
        ...

    def list(self, uri: str) -> Iterator[StoredObject]: ...
    def delete(self, uri: str) -> None: ...
    def upload(self, path: Path, uri: str) -> None: ...
    def download(self, uri: str, path: Path) -> None: ...


class Storage:
    """The stores of a stage, by scheme. See `Store` for the operations.

    Args:
        access: endpoint and region for `s3://`.
        mounts: mount path -> folder, for `file://` URIs under a volume of the manifest.
    """

    def __init__(self, access: StorageAccess | None = None, mounts: Mapping[str, Path] | None = None) -> None:
        self._access = access or StorageAccess()
        self._file = FileStore(mounts if mounts is not None else mounts_from(os.environ.get("PSR_MOUNTS", "")))
        self._s3: Store | None = None

    def _store(self, uri: str) -> Store:
        scheme = urlsplit(uri).scheme
        if scheme == "file":
            return self._file
        if scheme == "s3":
            if self._s3 is None:
                self._s3 = S3Store(self._access)
            return self._s3
        raise ConfigurationError(f"{uri}: only file:/// and s3:// URIs are known; give one of these")

    def read(self, uri: str) -> bytes:
        return self._store(uri).read(uri)

    def write(self, uri: str, data: bytes) -> None:
        self._store(uri).write(uri, data)

    def create(self, uri: str, data: bytes) -> bool:
        return self._store(uri).create(uri, data)

    def list(self, uri: str) -> list[StoredObject]:
        """Objects below a folder (or the object itself), sorted by URI."""
        return sorted(self._store(uri).list(uri), key=lambda item: item.uri)

    def delete(self, uri: str) -> None:
        """Remove one object; one that is gone already is no error."""
        self._store(uri).delete(uri)

    def upload(self, path: Path, uri: str) -> None:
        self._store(uri).upload(path, uri)

    def download(self, uri: str, path: Path) -> None:
        self._store(uri).download(uri, path)

    def exists(self, uri: str) -> bool:
        return any(item.uri == uri for item in self._store(uri).list(uri))

    def local_path(self, uri: str) -> Path | None:
        """The path of a `file://` URI on this machine; None for other schemes."""
        return self._file.path(uri) if uri.startswith("file://") else None


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it, one slash between."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


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
    """`file://`: every write is a temporary file, flushed to disk and renamed or linked into place."""

    def __init__(self, mounts: Mapping[str, Path]) -> None:
        self._mounts = dict(mounts)

    def path(self, uri: str) -> Path:
        path = unquote(urlsplit(uri).path)
        for mount, folder in self._mounts.items():
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
                return False
            sync_folder(path.parent)
            return True

    def list(self, uri: str) -> Iterator[StoredObject]:
        root = self.path(uri)
        base = uri.rstrip("/")
        if root.is_file():
            yield StoredObject(base, root.stat().st_size)
        elif root.is_dir():
            for folder, _, names in os.walk(root):
                for name in names:
                    path = Path(folder, name)
                    if not name.startswith(TEMPORARY):
                        yield StoredObject(f"{base}/{path.relative_to(root).as_posix()}", path.stat().st_size)

    def delete(self, uri: str) -> None:
        with file_errors(uri):
            path = self.path(uri)
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # an empty folder means nothing, as on S3

    def upload(self, path: Path, uri: str) -> None:
        target = self.path(uri)
        with file_errors(uri), _temporary_beside(target) as temporary:
            with open(path, "rb") as source, open(temporary, "wb") as copy:
                shutil.copyfileobj(source, copy, CHUNK)
                copy.flush()
                os.fsync(copy.fileno())
            os.replace(temporary, target)

    def download(self, uri: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_errors(uri):
            shutil.copyfile(self.path(uri), path)


TEMPORARY = ".psr-partial-"


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    os.fchmod(handle, 0o644)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise InputMissing(f"{uri}: no such file ({error.filename})") from error
    except PermissionError as error:
        raise InputMissing(f"{uri}: permission denied ({error.filename}); check owner and mode") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Interrupted(f"{uri}: no space left on the device; free some and run it again") from error
        raise


# --- s3:// -------------------------------------------------------------------------------------------------


class S3Store:
    """`s3://bucket/key` by boto3, with its parallel multipart transfer and conditional puts."""

    def __init__(self, access: StorageAccess) -> None:
        import boto3
        from boto3.s3.transfer import TransferConfig
        from botocore.config import Config

        self._client: Any = boto3.client(
            "s3",
            endpoint_url=access.endpoint,
            region_name=access.region,
            config=Config(retries={"mode": "adaptive", "max_attempts": 6}, max_pool_connections=32),
        )
        self._transfer = TransferConfig(
            multipart_threshold=32 * CHUNK, multipart_chunksize=16 * CHUNK, max_concurrency=8
        )

    def read(self, uri: str) -> bytes:
        with _s3_errors(uri):
            data: bytes = self._client.get_object(**_address(uri))["Body"].read()
            return data

    def write(self, uri: str, data: bytes) -> None:
        with _s3_errors(uri):
            self._client.put_object(**_address(uri), Body=data)

    def create(self, uri: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        with _s3_errors(uri):
            try:
                self._client.put_object(**_address(uri), Body=data, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) in (409, 412):
                    return False
                raise
            return True

    def list(self, uri: str) -> Iterator[StoredObject]:
        address = _address(uri)
        key = address["Key"].rstrip("/")
        with _s3_errors(uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=address["Bucket"], Prefix=key)
            for page in pages:
                for item in page.get("Contents", ()):
                    if item["Key"] == key or item["Key"].startswith(key + "/"):
                        yield StoredObject(f"s3://{address['Bucket']}/{item['Key']}", item["Size"])

    def delete(self, uri: str) -> None:
        with _s3_errors(uri):
            self._client.delete_object(**_address(uri))

    def upload(self, path: Path, uri: str) -> None:
        with _s3_errors(uri):
            self._client.upload_file(str(path), **_address(uri), Config=self._transfer)

    def download(self, uri: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        address = _address(uri)
        with _s3_errors(uri):
            self._client.download_file(address["Bucket"], address["Key"], str(path), Config=self._transfer)


def _address(uri: str) -> dict[str, str]:
    parts = urlsplit(uri)
    return {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextlib.contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    """Translate boto3's errors: wrong credentials and missing objects are 66, an unreachable service is 75."""
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise InputMissing(
            f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or name a secret"
        ) from error
    except (ClientError, S3UploadFailedError) as error:
        cause = error if isinstance(error, ClientError) else error.__context__
        status = _status(cause) if isinstance(cause, ClientError) else 0
        code = cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""
        if status in (401, 403):
            raise InputMissing(
                f"{uri}: S3 refused the credentials ({code or status}); check key, secret and bucket policy"
            ) from error
        if status == 404:
            raise InputMissing(f"{uri}: no such object or bucket ({code or status})") from error
        raise Interrupted(f"{uri}: S3 answered {code or status or error}") from error
    except BotoCoreError as error:
        raise Interrupted(f"{uri}: S3 cannot be reached ({error})") from error
