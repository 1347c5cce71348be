"""Bytes by URI: `file://`, `s3://` and whatever else a package brings, behind one small interface.

`stores.py` finds the store of a URI, `store.py` says what a scheme implements, `files.py`, `s3.py` and `hub.py` are
ours, `s3_transfer.py` moves large files in parts (`partial.py`), `hashes.py` names and verifies content. What an
artefact is stands in `psr_runtime.artefacts`.
"""

from psr_runtime.storage.files import file_uri, mounts_from
from psr_runtime.storage.hashes import sha256_of
from psr_runtime.storage.store import NotFound, Store, StoredObject
from psr_runtime.storage.stores import SCHEMES, Storage, join, name_below, scheme_name

__all__ = [
    "SCHEMES",
    "NotFound",
    "Storage",
    "Store",
    "StoredObject",
    "file_uri",
    "join",
    "mounts_from",
    "name_below",
    "scheme_name",
    "sha256_of",
]
