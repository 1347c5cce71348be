"""Back ends: a Workload → objects of a cluster, and those objects → the Workload's state.

A back end is one file: which objects a Workload becomes, which kinds are watched for them, what is kept of a raw
object, and what that means. The rest of the operator names none of these kinds: it watches, creates, deletes and asks
through what stands here. Pods are the same for every back end (`render/pod.py`), so they are the controller's.

`job.py` is our own back end. Another package brings one by an entry point in the group `psr.backends`, a test by
`BACKENDS.register`. What the operator may do with a back end's kinds stands in the role of its chart (`rbac.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from psr_operator.api.common import Resource
from psr_operator.backends.facts import ObjectKind, PodFacts, WorkloadFacts
from psr_operator.planner.types import Workload, WorkloadState
from psr_operator.render.settings import Settings
from psr_runtime.plugins import Registry
from psr_runtime.protocol import ProgressReport

F = TypeVar("F", bound=WorkloadFacts)

DEFAULT = "Job"


class Backend(Protocol[F]):
    """What the controller needs of a back end.

    Attributes:
        kinds: that are watched, and that the controller creates and deletes for it.
    """

    @property
    def kinds(self) -> tuple[ObjectKind, ...]: ...

    def objects(self, workload: Workload, owner: Resource, settings: Settings) -> list[dict[str, Any]]:
        """The objects of a Workload, all controlled by `owner`.

        The first bears the name of the Workload and stands for it: it is created last, the Workload is there while this
        object is, and is stopped by deleting it. Pods bear the labels of `render/stage.py`.

        Raises:
            RenderError: the manifest asks for what no pod may have, or the configuration does not fit.
        """
        ...

    def facts(self, raw: Any) -> F | None:
        """What is kept of an object of these kinds; None for one that this back end did not make."""
        ...

    def state(self, facts: F, pods: Sequence[PodFacts], progress: ProgressReport | None) -> WorkloadState:
        """What has become of a Workload.

        Args:
            facts: of the object that stands for it; it is not being deleted.
            pods: of the Workload that exist.
            progress: what running pods said, None while they have not.
        """
        ...


BACKENDS: Registry[Backend[Any]] = Registry("psr.backends", "backend", {DEFAULT: "psr_operator.backends.job:BACKEND"})


def load_all() -> tuple[Backend[Any], ...]:
    """Every back end that is there."""
    return tuple(BACKENDS.load(name) for name in BACKENDS.names())


def backend_of(workload: Workload) -> Backend[Any]:
    """The back end that makes a Workload's objects. A manifest has no say in it yet: it is `DEFAULT` for all."""
    return BACKENDS.load(DEFAULT)
