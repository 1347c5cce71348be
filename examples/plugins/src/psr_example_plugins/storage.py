"""`share://name/path`: what lies below `/shares/name`, where a cluster mounts the shares of its file servers.

A manifest then names a share instead of a folder. A scheme for another service implements every method of
`psr_runtime.storage.store.Store`; this one stands on files, so the place of a URI is all that it changes.
"""

from __future__ import annotations

from pathlib import Path

from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.storage.files import FileStore


class ShareStore(FileStore):
    """Files below the mount path `/shares`; on one machine `--mount /shares=FOLDER` says where that is."""

    def local_path(self, uri: str) -> Path:
        """The path of a URI.

        Raises:
            ConfigurationError: it names no share.
        """
        share, _, path = uri.removeprefix("share://").partition("/")
        if not share:
            raise ConfigurationError(f"{uri}: no share is named; write share://name/path")
        return super().local_path(f"file:///shares/{share}/{path}".rstrip("/"))
