"""The storage: reachable with these credentials, writable, and able to create an object exactly once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from psr_runtime.check.findings import Finding, error, fact, failed
from psr_runtime.check.machine import existing
from psr_runtime.check.subject import Subject
from psr_runtime.protocol.errors import ConfigurationError, InputMissing, StageError
from psr_runtime.storage import Storage, join
from psr_runtime.storage.files import file_uri

PROBE = "psr-check-"
CHECK = "storage"


def storage_takes_objects(subject: Subject) -> Iterator[Finding]:
    """A probe object can be created once, not twice, read, and removed again.

    In a file system it is put into the nearest folder that is there, so that no folder is made for it.
    """
    config, field, storage = subject.config, subject.field("storage.uri"), subject.storage
    uri = config.owner.uri if config.owner is not None else config.output
    name = f"{PROBE}{secrets.token_hex(8)}"
    try:
        path = storage.local_path(uri)
        if path is None:
            probe = join(uri, name)
        else:
            if blocked := next((item for item in (path, *path.parents) if item.exists() and not item.is_dir()), None):
                raise InputMissing(f"{uri}: {blocked} is a file, and a folder is wanted there")
            storage, file = Storage(mounts={}), existing(path) / name
            uri, probe = file_uri(file.parent), file_uri(file)
        try:
            created, again = storage.create(probe, b"psr"), storage.create(probe, b"psr, again")
            content = storage.read(probe)
        finally:
            if path is not None:
                file.unlink(missing_ok=True)  # the store would take an empty folder away, too
            else:
                storage.delete(probe)
    except StageError as cause:
        todo = "correct the URI, the endpoint, the credentials or the mode of the folder"
        yield failed(CHECK, field, cause, "" if isinstance(cause, ConfigurationError) else todo)
        return
    if not created or again or content != b"psr":
        message = f"{uri}: the store has put an object a second time although it was told not to (If-None-Match: *)"
        yield error(CHECK, field, message, "use a store with conditional puts", ConfigurationError)
    else:
        yield fact(CHECK, field, f"{uri}: an object can be created, read and removed")
