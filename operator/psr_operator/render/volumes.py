"""The volumes of every pod, and what keeps a manifest's own from hiding them."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from psr_operator.api.pod import PodOverrides
from psr_operator.planner.plan import Placement
from psr_operator.render.settings import RenderError

SCRATCH = "/scratch"
CACHE = "/cache"
CONFIG = "/etc/psr"
MESSAGE = "/dev/termination-log"


def volumes_of(placement: Placement, config_map: str | None) -> list[dict[str, Any]]:
    """The volumes of every pod, of its ConfigMap and of its storage."""
    shared: dict[str, Any] = {"medium": "Memory"}
    if placement.resources.shared_memory is not None:
        shared["sizeLimit"] = placement.resources.shared_memory
    found: list[dict[str, Any]] = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": shared},
    ]
    if config_map is not None:
        found.append({"name": "config", "configMap": {"name": config_map}})
    if placement.storage is not None and placement.storage.volume is not None:
        claim = {"claimName": placement.storage.volume.claim_name}
        found.append({"name": "storage", "persistentVolumeClaim": claim})
    return found


def mounts_of(placement: Placement, config_map: str | None) -> list[dict[str, Any]]:
    """Where they appear."""
    found: list[dict[str, Any]] = [
        {"name": "scratch", "mountPath": SCRATCH},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "cache", "mountPath": CACHE},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    if config_map is not None:
        found.append({"name": "config", "mountPath": CONFIG, "readOnly": True})
    if placement.storage is not None and placement.storage.volume is not None:
        found.append({"name": "storage", "mountPath": placement.storage.volume.mount_path})
    return found


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
        raise RenderError("VolumeReserved", f"pod.volumes: {taken} is a volume of every pod; choose another name")
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
                "MountReserved", f"{field_name}: {path} would hide, or be hidden by, the pod's own {mount}; move it"
            )


def _normal(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))  # normpath itself leaves two slashes as they are


def _within(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")
