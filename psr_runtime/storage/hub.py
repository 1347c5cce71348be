"""`hf://org/name@revision/path` by huggingface_hub: models and data sets of a Hugging Face hub, read-only.

A data set is `hf://datasets/org/name@revision`. A revision is a commit, a branch or a tag (a slash in it is written
%2F); without one it is `main`. A branch moves, so work resolves a URI once and records the commit
(`psr_runtime.artefacts.pins`). The hub is that of `HF_ENDPOINT`, the token that of `HF_TOKEN`; a token that lies in a
file of the user is not used, nor is the library's cache: a download that broke off goes on in the file that it began.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NoReturn
from urllib.parse import quote, unquote

from psr_runtime.config import StorageAccess
from psr_runtime.protocol.errors import ConfigurationError, DataError, InputMissing, Interrupted
from psr_runtime.storage.files import file_errors
from psr_runtime.storage.hashes import HashName, digest_of, sha256_of
from psr_runtime.storage.partial import PARTIAL
from psr_runtime.storage.store import NotFound, StoredObject

SCHEME = "hf://"
ADDRESS = re.compile(r"hf://(datasets/)?([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/(.*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Address:
    """What a URI names.

    Attributes:
        kind: of the repository.
        repository: `org/name`.
        revision: a commit, branch or tag.
        path: of a file or folder in it; empty for all.
    """

    kind: Literal["model", "dataset"]
    repository: str
    revision: str
    path: str

    @classmethod
    def of(cls, uri: str) -> Address:
        """The address of a URI.

        Raises:
            ConfigurationError: it is not written as one.
        """
        match = ADDRESS.fullmatch(uri)
        if match is None:
            raise ConfigurationError(f"{uri}: write hf://org/name@revision, or hf://datasets/org/name@revision")
        kind, repository, revision, path = match.groups()
        return cls("dataset" if kind else "model", repository, unquote(revision or "main"), (path or "").strip("/"))

    @property
    def is_fixed(self) -> bool:
        """Whether the revision is a commit, which never moves."""
        return COMMIT.fullmatch(self.revision) is not None

    @property
    def uri(self) -> str:
        """The URI of this address."""
        kind = "datasets/" if self.kind == "dataset" else ""
        path = f"/{self.path}" if self.path else ""
        return f"{SCHEME}{kind}{self.repository}@{quote(self.revision, safe='')}{path}"


@dataclass(frozen=True)
class Entry:
    """A file of a repository: its size in bytes, and its sha256 where the hub tells it."""

    size: int
    sha256: str | None


class HubStore:
    """The `Store` of `hf://`. See also `Versioned`.

    Args:
        access, mounts: of no meaning here.
    """

    encodes_names: ClassVar[bool] = False

    def __init__(self, access: StorageAccess, mounts: Mapping[str, Path] | None = None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        self._token: str | bool = os.environ.get("HF_TOKEN") or False
        self._api = HfApi(endpoint=self._endpoint, token=self._token, library_name="psr")
        self._lock = threading.Lock()
        self._commits: dict[tuple[str, str, str], str] = {}
        self._files: dict[tuple[str, str, str], dict[str, Entry]] = {}

    # --- versions ------------------------------------------------------------------------------------------

    def moves(self, uri: str) -> bool:
        """See `Versioned.moves`: all but commits may move."""
        return not Address.of(uri).is_fixed

    def resolve(self, uri: str) -> str:
        """See `Versioned.resolve`: a branch or tag becomes the commit that it names now."""
        return self._fixed(Address.of(uri)).uri

    def version(self, uri: str) -> str:
        """See `Versioned.version`: digest of repository, commit and path."""
        address = self._fixed(Address.of(uri))
        text = "\0".join([address.kind, address.repository, address.revision, address.path])
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    # --- what is read --------------------------------------------------------------------------------------

    def local_path(self, uri: str) -> None:
        return None

    def read(self, uri: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="psr-hub-") as folder:
            path = Path(folder, "file")
            self.download(uri, path, "sha256")
            return path.read_bytes()

    def list(self, uri: str) -> Iterator[StoredObject]:
        address = self._fixed(Address.of(uri))
        base = uri.rstrip("/")
        files = self._entries(address)
        if address.path in files:
            yield StoredObject(base, files[address.path].size)
        prefix = f"{address.path}/" if address.path else ""
        for name, entry in sorted(files.items()):
            if name.startswith(prefix):
                yield StoredObject(f"{base}/{name.removeprefix(prefix)}", entry.size)

    def sha256(self, uri: str) -> str:
        address = self._fixed(Address.of(uri))
        entry = self._entries(address).get(address.path)
        known = entry.sha256 if entry is not None else None
        return known or hashlib.sha256(self.read(uri)).hexdigest()

    def download(self, uri: str, path: Path, hash: HashName) -> str:
        """See `Store.download`. What came of a file stays beside it, and the next call goes on there."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        address = self._fixed(Address.of(uri))
        entry = self._entries(address).get(address.path)
        if entry is None:
            raise NotFound(f"{uri}: no such file at commit {address.revision[:12]}")
        place = {"repo_type": address.kind, "revision": address.revision, "endpoint": self._endpoint}
        url = hf_hub_url(address.repository, address.path, **place)
        partial = path.with_name(f"{path.name}.{address.revision[:12]}{PARTIAL}")
        with hub_errors(uri), file_errors(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if file.tell() > entry.size:
                    file.truncate(0)
                present = os.fstat(file.fileno()).st_size
                if present < entry.size:
                    headers = build_hf_headers(token=self._token, library_name="psr")
                    http_get(url, file, resume_size=present, headers=headers, expected_size=entry.size)
            if entry.sha256 is not None and sha256_of(partial) != entry.sha256:
                partial.unlink()
                raise DataError(f"{uri}: what came has not the sha256 that the hub names; try again")
            os.replace(partial, path)
            return digest_of(path, hash)

    # --- what is not possible ------------------------------------------------------------------------------

    def write(self, uri: str, data: bytes) -> NoReturn:
        raise _read_only(uri)

    def create(self, uri: str, data: bytes) -> NoReturn:
        raise _read_only(uri)

    def upload(self, path: Path, uri: str, sha256: str, move: bool) -> NoReturn:
        raise _read_only(uri)

    def delete(self, uri: str) -> NoReturn:
        raise _read_only(uri)

    def delete_folder(self, uri: str) -> NoReturn:
        raise _read_only(uri)

    def sweep(self, uri: str) -> None:
        """Nobody writes here."""

    # --- the hub -------------------------------------------------------------------------------------------

    def _fixed(self, address: Address) -> Address:
        """The address with a commit; asked for once by this store."""
        if address.is_fixed:
            return address
        key = (address.kind, address.repository, address.revision)
        with self._lock:
            if key not in self._commits:
                with hub_errors(address.uri):
                    info = self._api.repo_info(
                        address.repository, revision=address.revision, repo_type=address.kind, timeout=30
                    )
                self._commits[key] = str(info.sha)
            return replace(address, revision=self._commits[key])

    def _entries(self, address: Address) -> Mapping[str, Entry]:
        """Every file of a repository at a commit, by its path."""
        key = (address.kind, address.repository, address.revision)
        with self._lock:
            if key not in self._files:
                with hub_errors(address.uri):
                    tree = self._api.list_repo_tree(
                        address.repository, recursive=True, revision=address.revision, repo_type=address.kind
                    )
                    self._files[key] = {
                        item.path: Entry(item.size, item.lfs.sha256 if item.lfs is not None else None)
                        for item in tree
                        if hasattr(item, "size")
                    }
            return self._files[key]


class _Online:
    """Lifts the library's offline mode for as long as somebody asks.

    Stages and servers run with `HF_HUB_OFFLINE`, so that no library looks for models by itself; only a URI may.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._askers = 0
        self._offline = False

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        from huggingface_hub import constants

        with self._lock:
            if not self._askers:
                self._offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
            self._askers += 1
        try:
            yield
        finally:
            with self._lock:
                self._askers -= 1
                if not self._askers:
                    constants.HF_HUB_OFFLINE = self._offline


_ONLINE = _Online()


@contextlib.contextmanager
def hub_errors(uri: str) -> Iterator[None]:
    """Ask the hub, and translate its errors about `uri` into the stage contract's. No message holds a token."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with _ONLINE.asking():
            yield
    except GatedRepoError as error:
        raise InputMissing(f"{uri}: the hub wants its conditions accepted, and HF_TOKEN of who did so") from error
    except RevisionNotFoundError as error:
        raise InputMissing(f"{uri}: the repository has no such revision; check what follows @") from error
    except RepositoryNotFoundError as error:
        raise InputMissing(f"{uri}: no such repository, or one that HF_TOKEN may not see; check its name") from error
    except EntryNotFoundError as error:
        raise NotFound(f"{uri}: no such file in the repository") from error
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in (401, 403):
            raise InputMissing(f"{uri}: the hub refuses ({code}); check HF_TOKEN") from error
        raise Interrupted(f"{uri}: the hub answers {code}; try again later") from error
    except HTTPError as error:  # of the library's HTTP client
        raise Interrupted(f"{uri}: the hub cannot be reached ({type(error).__name__}); try again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise Interrupted(f"{uri}: the download broke off; try again and it goes on") from error  # too few bytes came


def _read_only(uri: str) -> ConfigurationError:
    return ConfigurationError(f"{uri}: a hub is only read from; choose file:// or s3:// for what is written")
