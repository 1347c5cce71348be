"""Bytes by URI: `file://` and `s3://` behind one small interface.

`stores.py` finds the store of a URI, `files.py` and `s3.py` are the schemes, `s3_transfer.py` moves large files,
`hashes.py` names and verifies content. What an artefact is stands in `psr_runtime.artefacts`.
"""

from psr_runtime.storage.files import NotFound, StoredObject
from psr_runtime.storage.hashes import sha256_of
from psr_runtime.storage.stores import Storage, file_uri, join, mounts_from, name_below

__all__ = ["NotFound", "Storage", "StoredObject", "file_uri", "join", "mounts_from", "name_below", "sha256_of"]
