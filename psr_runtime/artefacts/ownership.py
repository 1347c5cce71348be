"""Who may write below a storage prefix: `owner.json` there names the object that claimed it first."""

from __future__ import annotations

import json

from psr_runtime.config import Owner
from psr_runtime.protocol.errors import DataError, InputMissing, StorageInUse
from psr_runtime.storage import NotFound, Storage, join

OWNER = "owner.json"


def claim_prefix(storage: Storage, owner: Owner) -> None:
    """Claim `owner.uri` for `owner`, unless it has it already.

    Raises:
        StorageInUse: another object has it.
        DataError: the claim that is there cannot be read.
    """
    place = join(owner.uri, OWNER)
    if storage.create(place, json.dumps({"uid": owner.uid, "name": owner.name}).encode()):
        return
    try:
        claim = json.loads(storage.read(place))
        uid, name = claim["uid"], claim["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{place}: not a JSON object with uid and name; remove it if nobody uses {owner.uri}"
        ) from error
    if uid != owner.uid and name == owner.name:
        raise StorageInUse(
            f"{owner.uri} belongs to an earlier {name} (uid {uid}); use the work folder of that run, or "
            f"remove {place} to have it"
        )
    if uid != owner.uid:
        raise StorageInUse(
            f"{owner.uri} belongs to {name} (uid {uid}), not to "
            f"{owner.name} (uid {owner.uid}); choose another storage.uri"
        )


def check_output(storage: Storage, output: str, owner: Owner) -> None:
    """Check that an output outside of the owner's prefix lies in nobody else's.

    Raises:
        StorageInUse: it does, and whose it is.
    """
    if f"{output}/".startswith(f"{owner.uri.rstrip('/')}/"):
        return
    scheme, _, path = output.partition("://")
    parts = path.strip("/").split("/")
    root = f"{scheme}:///" if path.startswith("/") else f"{scheme}://"
    for depth in range(len(parts), 0, -1):
        folder = root + "/".join(parts[:depth])
        try:
            claim = json.loads(storage.read(f"{folder}/{OWNER}"))
        except InputMissing:
            continue  # nobody's, or nothing that these credentials may see
        except ValueError:
            continue
        if isinstance(claim, dict) and claim.get("uid") not in (None, owner.uid):
            raise StorageInUse(
                f"{output} lies in {folder}, which belongs to {claim.get('name')} (uid {claim['uid']}), "
                f"not to {owner.name} (uid {owner.uid}); choose another output"
            )


def check_removable(storage: Storage, uri: str, owner: Owner) -> None:
    """Check that no folder between the owner's prefix and the artefact at `uri` is claimed by somebody else.

    Raises:
        StorageInUse: one is, and whose it is.
    """
    folder = owner.uri.rstrip("/")
    for part in uri.removeprefix(folder + "/").split("/"):
        folder = f"{folder}/{part}"
        try:
            claim = json.loads(storage.read(f"{folder}/{OWNER}"))
        except NotFound:
            continue
        except ValueError:
            claim = None
        uid = claim.get("uid") if isinstance(claim, dict) else None
        if uid != owner.uid:
            raise StorageInUse(f"{folder} belongs to uid {uid}, not to {owner.name}; nothing was removed")
