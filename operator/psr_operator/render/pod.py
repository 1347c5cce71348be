"""The one pod template of every stage and server, and how a manifest's wishes are merged into it.

It meets the `restricted` Pod Security level whatever a manifest says: there is no field that could loosen it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from psr_operator.api.common import Resources
from psr_operator.api.pod import PodOverrides
from psr_operator.planner.types import Placement
from psr_operator.reasons import Reason
from psr_operator.render.labels import foreign
from psr_operator.render.merge import merge
from psr_operator.render.settings import RenderError, Settings
from psr_operator.render.volumes import (
    CA_FILE,
    CACHE,
    CERTIFICATES,
    MESSAGE,
    SCRATCH,
    check_own,
    check_uris,
    mounts_of,
    volumes_of,
)
from psr_runtime.protocol import SCRATCH_VARIABLE, TERMINATION_VARIABLE

USER = 65532
"""User and group of every process; the images need no entry for it."""

CACHES = {
    "HOME": CACHE,
    "XDG_CACHE_HOME": f"{CACHE}/xdg",
    "HF_HOME": f"{CACHE}/huggingface",
    "MPLCONFIGDIR": f"{CACHE}/matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/inductor",
    "TRITON_CACHE_DIR": f"{CACHE}/triton",
    "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
    "VLLM_CONFIG_ROOT": f"{CACHE}/vllm-config",
}
"""Where libraries write: the root file system is read-only."""

BROUGHT = "/opt/psr-brought"
"""Where `psr_runtime` lies that another image has brought."""

CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""Security context of every container."""

ENVIRONMENT = {
    SCRATCH_VARIABLE: SCRATCH,
    TERMINATION_VARIABLE: MESSAGE,
    **CACHES,
    "USER": "psr",  # getpass asks for it before it asks for an entry in /etc/passwd
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Container:
    """The one container of a pod.

    Attributes:
        env: variables beside those of every pod, in the order in which they refer to each other.
        ports: by name.
        probes: `readinessProbe` and the like.
        config_map: appears as files under `/etc/psr`.
        uris: that the process reads or writes, by the field that names each.
        writes: whether it leaves anything in its storage.
        bring: image whose `psr_runtime` an init container copies to where this container's Python finds it.
    """

    name: str
    image: str
    command: Sequence[str]
    env: Sequence[Mapping[str, Any]] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    probes: Mapping[str, Any] = field(default_factory=dict)
    config_map: str | None = None
    uris: Mapping[str, str] = field(default_factory=dict)
    writes: bool = True
    bring: str | None = None


def template(
    container: Container,
    placement: Placement,
    settings: Settings,
    *,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    scheduling: Mapping[str, Any],
    restart_policy: str,
    grace_seconds: int,
) -> dict[str, Any]:
    """A pod template.

    Args:
        labels, annotations: ours; they win.
        scheduling: `affinity` or `topologySpreadConstraints`, of `together` or `apart`.
        grace_seconds: between SIGTERM and SIGKILL unless the manifest says otherwise.

    Raises:
        RenderError: ServiceAccountNotAllowed, VolumeReserved, MountReserved or VolumeMissing.
    """
    pod = settings.pod_defaults.beneath(placement)
    placement = replace(placement, pod=pod)
    volumes = volumes_of(placement, container.config_map)
    mounts = mounts_of(placement, container.config_map, writes=container.writes)
    if container.bring is not None:
        volumes.append({"name": "runtime", "emptyDir": {}})
        mounts.append({"name": "runtime", "mountPath": BROUGHT, "readOnly": True})
    check_own(pod, placement, volumes, mounts)
    check_uris(container.uris, placement)
    spec = {
        "restartPolicy": restart_policy,
        "terminationGracePeriodSeconds": grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _security(settings),
        **scheduling,
        **_service_account(placement, settings),
        "volumes": volumes,
    }
    wishes = pod.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    for key in ("labels", "annotations", "env", "volumeMounts", "serviceAccountName"):
        wishes.pop(key, None)
    spec = merge(spec, wishes)
    spec["containers"] = [_container(container, placement, settings, mounts)]
    if container.bring is not None:
        spec["initContainers"] = [_bringer(container.bring, placement.resources, settings)]
    metadata = {"labels": {**foreign(placement.labels), **foreign(pod.labels), **labels}}
    if notes := {**foreign(placement.annotations), **foreign(pod.annotations), **annotations}:
        metadata["annotations"] = notes
    return {"metadata": metadata, "spec": spec}


def _security(settings: Settings) -> dict[str, Any]:
    """The security context of a pod. A platform that assigns users and groups refuses others' numbers."""
    ids = {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"}
    return {
        "runAsNonRoot": True,
        **({} if settings.platform_ids else ids),
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def apart(selector: Mapping[str, str]) -> dict[str, Any]:
    """Scheduling of pods that share no work: better on several nodes, but anywhere rather than nowhere."""
    return {
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(selector)},
            }
        ]
    }


def together(selector: Mapping[str, str]) -> dict[str, Any]:
    """Scheduling of pods that talk to each other all the time: better in one zone."""
    term = {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": dict(selector)}}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}


def variable(name: str, value: str) -> dict[str, Any]:
    """An environment variable."""
    return {"name": name, "value": value}


def secret_variable(name: str, secret: str, key: str) -> dict[str, Any]:
    """An environment variable from a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


# --- the container -----------------------------------------------------------------------------------------


def _container(
    container: Container, placement: Placement, settings: Settings, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    pod = placement.pod or PodOverrides()
    brought = [variable("PYTHONPATH", BROUGHT)] if container.bring is not None else []
    trusted = placement.storage is not None and placement.storage.ca_secret is not None
    bundle = [variable("AWS_CA_BUNDLE", f"{CERTIFICATES}/{CA_FILE}")] if trusted else []
    rendered: dict[str, Any] = {
        "name": container.name,
        "image": container.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(container.command),
        "env": [
            *(variable(name, value) for name, value in ENVIRONMENT.items()),
            *brought,
            *bundle,
            *map(dict, container.env),
        ],
        "resources": _resources(placement.resources, pod, settings),
        "securityContext": CONFINED,
        "terminationMessagePath": MESSAGE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
        **container.probes,
    }
    if container.ports:
        rendered["ports"] = [
            {"name": name, "containerPort": port, "protocol": "TCP"} for name, port in container.ports.items()
        ]
    if placement.storage is not None and placement.storage.credentials_secret is not None:
        rendered["envFrom"] = [{"secretRef": {"name": placement.storage.credentials_secret}}]
    wishes = {
        "env": [item.to_json() for item in pod.env if not item.name.startswith("PSR_")],
        "volumeMounts": [
            item.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True) for item in pod.volume_mounts
        ],
    }
    return merge(rendered, wishes)


def _bringer(image: str, resources: Resources, settings: Settings) -> dict[str, Any]:
    """The init container that copies `psr_runtime`. It asks for what the container asks for, so it costs nothing."""
    return {
        "name": "bring-runtime",
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "psr_runtime", "bring", BROUGHT],
        "resources": _resources(resources.model_copy(update={"gpus": 0}), PodOverrides(), settings),
        "securityContext": CONFINED,
        "volumeMounts": [{"name": "runtime", "mountPath": BROUGHT}],
    }


def _resources(resources: Resources, pod: PodOverrides, settings: Settings) -> dict[str, Any]:
    disk = resources.ephemeral_storage or settings.ephemeral_storage
    requests = {"cpu": resources.cpu, "memory": resources.memory, "ephemeral-storage": disk}
    limits = {
        "cpu": resources.cpu_limit or settings.cpu_limit,
        "memory": resources.memory,
        "ephemeral-storage": disk,
    }
    if resources.gpus:
        requests[resources.gpu_resource] = limits[resources.gpu_resource] = str(resources.gpus)
    rendered: dict[str, Any] = {
        kind: {name: amount for name, amount in amounts.items() if amount is not None}
        for kind, amounts in (("requests", requests), ("limits", limits))
    }
    rendered = {kind: amounts for kind, amounts in rendered.items() if amounts}
    if pod.resource_claims:
        rendered["claims"] = [{"name": item.name} for item in pod.resource_claims]
    return rendered


def _service_account(placement: Placement, settings: Settings) -> dict[str, str]:
    """The service account that a manifest names.

    Raises:
        RenderError: it is not one of those that the operator allows.
    """
    name = placement.pod.service_account_name if placement.pod is not None else None
    if name is None and placement.storage is not None:
        name = placement.storage.service_account_name
    if name is None:
        return {}
    if name not in settings.service_accounts:
        allowed = ", ".join(sorted(settings.service_accounts)) or "none"
        raise RenderError(
            Reason.SERVICE_ACCOUNT_NOT_ALLOWED,
            f"serviceAccountName: {name} is not among those that the operator allows ({allowed}); choose another or "
            "have the operator's values name it",
        )
    return {"serviceAccountName": name}
