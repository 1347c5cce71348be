"""What a back end is, and the facts by which it and the controller speak of objects of a cluster.

Thousands of pods are known at a time, so a fact is a slotted value and strings that repeat are shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any, Protocol, TypeVar

from psr_operator.api.common import Resource
from psr_operator.planner.types import Workload, WorkloadState
from psr_operator.render.labels import LABEL_KIND, LABEL_MANAGED_BY, LABEL_NAME, LABEL_UID, MANAGED_BY
from psr_operator.render.settings import Settings
from psr_runtime.protocol import ProgressReport

Raw = Mapping[str, Any]

SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
"""Chooses what the operator has rendered."""


@dataclass(frozen=True)
class ObjectKind:
    """A kind of objects of the cluster.

    Attributes:
        selector: of the labels that are watched.
        verbs: what the operator does with such objects; its role allows exactly that.
    """

    api_version: str
    kind: str
    plural: str
    selector: str = SELECTOR
    verbs: tuple[str, ...] = ("get", "list", "watch", "create", "delete")


@dataclass(slots=True, frozen=True)
class OwnerLabels:
    """The object of ours that a rendered object names in its labels.

    Anybody can write labels, so the uid is compared with the chain of owner references before it is believed.
    """

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(slots=True, frozen=True)
class WorkloadFacts:
    """An object of a Workload; a back end adds what it needs.

    Attributes:
        backend: whose object it is.
        owner: uid of its controller: our object, or for a further object the one that stands for the Workload.
        pods: how many pods do the work.
        ended: whether it has succeeded or failed for good.
        deleting: whether it was deleted and still stands.
    """

    backend: Backend[Any]
    kind: ObjectKind
    name: str
    uid: str
    version: int
    labels: OwnerLabels
    owner: str
    attempt: int
    pods: int
    ended: bool
    deleting: bool


@dataclass(slots=True, frozen=True)
class PodFacts:
    """A pod of a Workload or a server.

    Attributes:
        owner, owner_name: uid and name of its controller, a Job or a ReplicaSet say.
        unit: name of the Workload or server that it is a part of.
        server: whether that is a server.
        exit_code, end_reason, message: of its container's last end; None and "" before. Of an init container's or a
            sidecar's where that is what ended the pod.
        waiting: why it does not run yet, a reason and a sentence.
        disrupted: evicted, drained or preempted.
        node: that it is bound to, "" before.
        looping: whether its container, or one that has to run before it, ends again and again.
        trouble: what is wrong with it although it runs, a sentence.
        ends_by: when it should be gone, in seconds since the epoch; None where nobody has deleted it.
    """

    name: str
    uid: str
    version: int
    labels: OwnerLabels
    owner: str
    owner_name: str
    unit: str
    server: bool
    index: int
    phase: str
    ip: str
    ready: bool
    deleting: bool
    disrupted: bool
    restarts: int
    exit_code: int | None
    end_reason: str
    message: str
    waiting: str
    node: str = ""
    looping: bool = False
    trouble: str = ""
    ends_by: float | None = None

    @property
    def finished(self) -> bool:
        """Whether its containers have ended for good: it holds no device any more."""
        return self.phase in ("Succeeded", "Failed")


F = TypeVar("F", bound=WorkloadFacts)


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


# --- readers


def labels_of(raw: Raw) -> Mapping[str, str]:
    """The labels of an object."""
    return raw["metadata"].get("labels") or {}


def owner_labels(raw: Raw) -> OwnerLabels | None:
    """The object of ours that an object names in its labels; None where it names none."""
    labels = labels_of(raw)
    if LABEL_UID not in labels:
        return None
    return OwnerLabels(
        intern(labels.get(LABEL_KIND, "")),
        intern(str(raw["metadata"].get("namespace", ""))),
        intern(labels.get(LABEL_NAME, "")),
        intern(labels[LABEL_UID]),
    )


def controller_of(raw: Raw, field: str = "uid") -> str:
    """A field of the owner reference that controls an object, "" for none."""
    references = raw["metadata"].get("ownerReferences") or ()
    return next((intern(item[field]) for item in references if item.get("controller")), "")


def number_in(text: str | None) -> int:
    """The number that a label holds, 0 for none."""
    return int(text) if text is not None and text.isdecimal() else 0
