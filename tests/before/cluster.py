"""A run on a control plane that is stopped while one of its stages is at work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.control_plane.plane import ControlPlane
from harness.control_plane.player import Outcome, Pod, play, succeed
from tests.controller.one_run import RUN as NAME
from tests.controller.one_run import SERVER, Place, Referee, run

RUN = run(rounds=2, sft={"ift": "s3://bucket/ift.jsonl"})
"""Fine-tuning, two rounds in two shards, an evaluation; server and trainings share GPUs."""


@dataclass(frozen=True)
class Held:
    """A stage that is at work when the operator is stopped.

    Attributes:
        job: its Workload, which runs until it is released.
        finished: objects that are finished by then.
        server: how the run's server stands meanwhile.
    """

    job: str
    owner: tuple[str, str]
    reason: str
    finished: tuple[tuple[str, str], ...]
    server: str

    def stands(self, place: Place) -> bool:
        """Whether everything is as it is to be written down."""
        wanted = {self.owner: self.reason, ("PolicyServer", SERVER): self.server}
        wanted |= dict.fromkeys(self.finished, "Succeeded")
        return all((place.ready(*key) or {}).get("reason") == reason for key, reason in wanted.items())


M1 = (("SFTJob", f"{NAME}-sft"), ("ModelEvaluation", f"{NAME}-m1-fresh"))
HELD = {
    "training": Held(
        f"{NAME}-1-dpo-a1",
        ("StepDPOJob", f"{NAME}-1-dpo"),
        "Training",
        (*M1, ("PreferenceGeneration", f"{NAME}-1-pairs")),
        "Idle",
    ),
    "searching": Held(
        f"{NAME}-1-pairs-search-a1", ("PreferenceGeneration", f"{NAME}-1-pairs"), "Searching", M1, "Serving"
    ),
}


def namespace_of(state: str) -> str:
    """Namespace of the run; artefacts lie below its name, so it is the same in every control plane."""
    return f"before-{state}"


@contextlib.contextmanager
def scene(plane: ControlPlane, state: str) -> Iterator[Place]:
    """The namespace of a state with a player that holds its stage, until the block ends."""
    namespace = namespace_of(state)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace, "labels": labels}})
    referee = Referee(holding(HELD[state].job))
    try:
        with play(plane, namespaces=[namespace], script=referee) as player:
            referee.player = player
            yield Place(plane, namespace, player, referee)
    finally:
        plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


def holding(workload: str) -> Callable[[Pod], Outcome]:
    """Every stage succeeds at once but this one, which runs until it is released."""
    return lambda pod: Outcome(hold=True) if pod.workload == workload else succeed(pod)
