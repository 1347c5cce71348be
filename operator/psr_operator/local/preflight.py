"""The check of objects from this machine: what `psr check` shows, and what `psr run` does before anything else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psr_operator.api import Resource
from psr_operator.local.store import stored_object
from psr_operator.planner.checking import check_configuration
from psr_runtime.storage import Storage

if TYPE_CHECKING:
    from psr_runtime.check.engine import Report


@dataclass(frozen=True)
class Checked:
    """An object and what its check says."""

    resource: Resource
    report: Report


def check_objects(
    objects: Iterable[Resource],
    mounts: Mapping[str, Path],
    *,
    here: bool,
    estimate: bool = False,
    device: str | None = None,
    nodes: int = 1,
) -> list[Checked]:
    """Check every object that declares work.

    Args:
        here: whether the work will be done on this machine: its devices, memory and free space count then.
        estimate: whether to work out what it takes, too.
        device: of the estimate, by its name.
        nodes: times the servers' replicas and the nodes of a training that the estimate reckons with.
    """
    from psr_runtime.check.engine import check  # reads tokenizers: only those who check need it
    from psr_runtime.check.estimate import DEVICES
    from psr_runtime.check.machine import this_machine

    machine = this_machine() if here else None
    checked = []
    for resource in objects:
        config = check_configuration(resource)
        if config is None:
            continue
        asked = config.hardware
        more = {"replicas": asked.replicas * nodes, "training_nodes": asked.training_nodes * nodes}
        config = config.model_copy(update={"hardware": asked.model_copy(update=more)})
        with tempfile.TemporaryDirectory(prefix="psr-check-") as scratch:
            storage, reckoned = Storage(config.storage, mounts), DEVICES[device] if device is not None else None
            report = check(config, storage, Path(scratch), machine, estimate=estimate, device=reckoned)
        checked.append(Checked(resource, report))
    return checked


def not_begun(objects: Iterable[Resource], folder: Path) -> list[Resource]:
    """The objects that no earlier run of a work folder has begun, or that it left Stalled; suspended ones do not begin.

    What is under way or done is not looked at again: it would be stopped for what it has got past already.
    """
    return [item for item in objects if not getattr(item.spec, "suspend", False) and not _is_begun(folder, item)]


def _is_begun(folder: Path, item: Resource) -> bool:
    status = (stored_object(folder, item.kind, item.metadata.name) or {}).get("status")
    if not isinstance(status, dict):
        return False
    conditions = [entry for entry in status.get("conditions", ()) if isinstance(entry, dict)]
    stalled = any(entry.get("type") == "Stalled" and entry.get("status") == "True" for entry in conditions)
    return bool(conditions) and not stalled
