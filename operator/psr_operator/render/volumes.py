"""The volumes of every pod, and what keeps a manifest's own from hiding them."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from psr_operator.api.pod import PodOverrides
from psr_operator.planner.types import Placement
from psr_operator.reasons import Reason
from psr_operator.render.settings import RenderError

SCRATCH = "/scratch"
CACHE = "/cache"
CONFIG = "/etc/psr"
CERTIFICATES = "/etc/psr-ca"
CA_FILE = "ca.crt"
"""Key of the certificates in `storage.caSecret`, and the file below `CERTIFICATES`."""
MESSAGE = "/dev/termination-log"


def volumes_of(placement: Placement, config_map: str | None) -> list[dict[str, Any]]:
    """The volumes of every pod, of its ConfigMap and of its storage."""
    shared: dict[str, Any] = {"medium": "Memory"}
    if placement.resources.shared_memory is not None:
        shared["sizeLimit"] = placement.resources.shared_memory
    volumes: list[dict[str, Any]] = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": shared},
    ]
    if config_map is not None:
        volumes.append({"name": "config", "configMap": {"name": config_map}})
    if placement.storage is not None and placement.storage.volume is not None:
        claim = {"claimName": placement.storage.volume.claim_name}
        volumes.append({"name": "storage", "persistentVolumeClaim": claim})
    if placement.storage is not None and placement.storage.ca_secret is not None:
        items = [{"key": CA_FILE, "path": CA_FILE}]
        volumes.append({"name": "storage-ca", "secret": {"secretName": placement.storage.ca_secret, "items": items}})
    return volumes


def mounts_of(placement: Placement, config_map: str | None, *, writes: bool = True) -> list[dict[str, Any]]:
    """Where they appear. `writes`: whether the pod leaves anything in its storage."""
    mounts: list[dict[str, Any]] = [
        {"name": "scratch", "mountPath": SCRATCH},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "cache", "mountPath": CACHE},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    if config_map is not None:
        mounts.append({"name": "config", "mountPath": CONFIG, "readOnly": True})
    if placement.storage is not None and placement.storage.volume is not None:
        only = {} if writes else {"readOnly": True}
        mounts.append({"name": "storage", "mountPath": placement.storage.volume.mount_path, **only})
    if placement.storage is not None and placement.storage.ca_secret is not None:
        mounts.append({"name": "storage-ca", "mountPath": CERTIFICATES, "readOnly": True})
    return mounts


def check_uris(uris: Mapping[str, str], placement: Placement) -> None:
    """Every `file://` URI lies on a volume that has something before the pod and keeps it afterwards.

    Args:
        uris: by the field that names each.

    Raises:
        RenderError: VolumeMissing; it would be looked for, or written, in the pod's own file system.
    """
    pod = placement.pod or PodOverrides()
    passing = {volume.name for volume in pod.volumes if volume.empty_dir is not None}
    places = [mount.mount_path for mount in pod.volume_mounts if mount.name not in passing]
    if placement.storage is not None and placement.storage.volume is not None:
        places.append(placement.storage.volume.mount_path)
    for name, uri in uris.items():
        path = _normal(unquote(uri.removeprefix("file://")))
        if uri.startswith("file://") and not any(_within(path, _normal(place)) for place in places):
            raise RenderError(
                Reason.VOLUME_MISSING,
                f"{name}: {uri} lies on no volume of the pod; name a ReadWriteMany claim in storage.volume whose "
                "mountPath the URI begins with, or use s3://",
            )


def check_own(
    pod: PodOverrides,
    placement: Placement,
    volumes: Sequence[Mapping[str, Any]],
    mounts: Sequence[Mapping[str, Any]],
) -> None:
    """A manifest adds volumes and mounts and hides none of the template's.

    Raises:
        RenderError: it takes the name of a volume, or a path at, above or below a mount. Below the caches is free: a
            claim there keeps them.
    """
    names = {volume["name"] for volume in volumes}
    taken = next((volume.name for volume in pod.volumes if volume.name in names), None)
    taken = taken or next((mount.name for mount in pod.volume_mounts if mount.name in names), None)
    if taken is not None:
        raise RenderError(Reason.VOLUME_RESERVED, f"pod.volumes: {taken} is a volume of every pod; choose another name")
    own = [MESSAGE, *(mount["mountPath"] for mount in mounts if mount["name"] != "storage")]
    volume = placement.storage.volume if placement.storage is not None else None
    if volume is not None:
        _check_path("storage.volume.mountPath", volume.mount_path, own)
        own.append(volume.mount_path)
    for wish in pod.volume_mounts:
        _check_path("pod.volumeMounts", wish.mount_path, own)


def _check_path(field_name: str, path: str, own: Sequence[str]) -> None:
    place = _normal(path)
    for mount in map(_normal, own):
        below_caches = mount == CACHE and place.startswith(f"{CACHE}/")
        if not below_caches and (_within(place, mount) or _within(mount, place)):
            raise RenderError(
                Reason.MOUNT_RESERVED,
                f"{field_name}: {path} would hide, or be hidden by, the pod's own {mount}; move it",
            )


def _normal(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))  # normpath itself leaves two slashes as they are


def _within(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")
