"""Back ends: a Workload → objects of a cluster, and those objects → the Workload's state.

A back end is one file: which objects a Workload becomes, which kinds are watched for them, what is kept of a raw
object, and what that means (`Backend` in `base.py`). The rest of the operator names none of these kinds: it watches,
creates, deletes and asks through that. Pods are the same for every back end (`render/stage.py`), so they are the
controller's.

`job.py` is our own back end. Another package brings one by an entry point in the group `psr.backends`, a test by
`BACKENDS.register`.
"""

from __future__ import annotations

from typing import Any

from psr_operator.backends.base import Backend
from psr_operator.planner.types import Workload
from psr_runtime.config.plugins import Registry

DEFAULT = "Job"

BACKENDS: Registry[Backend[Any]] = Registry("psr.backends", "backend", {DEFAULT: "psr_operator.backends.job:BACKEND"})


def load_all() -> tuple[Backend[Any], ...]:
    """Every back end that is there."""
    return tuple(BACKENDS.load(name) for name in BACKENDS.names())


def backend_of(workload: Workload) -> Backend[Any]:
    """The back end that makes a Workload's objects. A manifest has no say in it yet: it is `DEFAULT` for all."""
    return BACKENDS.load(DEFAULT)
