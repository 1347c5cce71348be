"""A run with fine-tuning, two rounds and an evaluation goes to Ready, and everything that is seen on the way.

Pods are bound, ended and removed only when the test has seen what must stand in the statuses before, so every object
goes through the same changes each time; they are in `golden/run.txt` (PSR_WRITE_GOLDEN=1 writes it anew).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.plane import APIError, ControlPlane
from harness.control_plane.player import Outcome, Player, Pod, play
from harness.operator_process import Operator, grant, start_operator
from psr_operator.api import KINDS
from psr_operator.render import LABEL_SERVER
from tests.controller.kstatus import KStatus, compute, flux_says, kubectl_wait
from tests.controller.recording import (
    Recording,
    changes_of,
    check_gpus,
    check_statuses,
    check_traces,
    created_between,
    record,
)

GOLDEN = Path(__file__).parent / "golden" / "run.txt"
SECONDS = 60.0
BY_HAND = {"schedulerName": "by-hand"}
RUN: dict[str, Any] = {
    "apiVersion": "psr.dev/v1alpha1",
    "kind": "SelfRewardRun",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"uri": "s3://bucket/base"},
        "storage": {"uri": "s3://bucket/runs"},
        "problems": "s3://bucket/problems.jsonl",
        "sft": {"ift": "s3://bucket/ift.jsonl"},
        "iterations": [{"questions": 4}, {"questions": 8}],
        "evaluations": [{"name": "fresh", "problems": "s3://bucket/test.jsonl"}],
        "trainingResources": {"gpus": 1},
        "trainingPod": BY_HAND,
        "searchPod": BY_HAND,
        "server": {"resources": {"gpus": 1}, "pod": BY_HAND},
    },
}


class Stage:
    """A namespace in which pods do what the test says: wait to be bound, run until released, stay until let go.

    Attributes:
        created: what was created between two moments of the play, a line for each.
    """

    def __init__(
        self, plane: ControlPlane, namespace: str, player: Player, recording: Recording, operator: Operator
    ) -> None:
        self.plane, self.player, self.recording, self.operator = plane, player, recording, operator
        self.namespace = namespace
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        self.created: list[str] = []
        self._since = recording.now()
        player.script = self.script

    @staticmethod
    def script(pod: Pod) -> Outcome:
        return Outcome(hold=True, stop_seconds=None if LABEL_SERVER in pod.labels else 0.0)

    def sees(self, **reasons: str) -> None:
        """Wait until objects stand with these reasons: `sees(SFTJob__tiny_sft="Training")`."""
        wanted = {name.replace("__", "/").replace("_", "-"): reason for name, reason in reasons.items()}
        try:
            self.player.until(
                lambda: all(self.recording.reason(name) == reason for name, reason in wanted.items()),
                str(wanted),
                SECONDS,
            )
        except AssertionError as error:
            seen = {name: self.recording.reason(name) for name in wanted}
            raise AssertionError(f"{error}; seen: {seen}\n{self.operator.said()[-4000:]}") from None

    def bind(self, label: str, name: str) -> None:
        """Have the pods run that bear this label, once they are there."""
        chosen = f"{self.pods}?labelSelector={label}={name}"
        pods = self.player.until(lambda: self._waiting(chosen), f"pods of {name}", SECONDS)
        for pod in pods:
            meta = {"name": pod["metadata"]["name"]}
            target = {"apiVersion": "v1", "kind": "Node", "name": self.player.node}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": meta, "target": target}
            self.plane.request("POST", f"{self.pods}/{meta['name']}/binding", body)

    def _waiting(self, path: str) -> list[Any]:
        return [pod for pod in self.plane.request("GET", path)["items"] if "nodeName" not in pod["spec"]]

    def work(self, name: str, owner: str, doing: str) -> None:
        """Bind the pods of a Workload, once its owner says that it is pending, and see it at work."""
        self.sees(**{owner: "Pending"})
        self.bind("psr.dev/workload", name)
        self.sees(**{owner: doing})

    def end(self, name: str) -> None:
        """Let the pods of a Workload succeed."""
        assert self.player.release(name) == 1

    def serve(self) -> None:
        self.bind(LABEL_SERVER, "tiny-server")
        self.sees(PolicyServer__tiny_server="Serving")

    def let_server_go(self) -> None:
        """Let the server's pod end, once it was asked to: until then it is terminating."""
        (name,) = self.player.until(self._terminating, "a server's pod that is terminating", SECONDS)
        assert self.player.release(name) == 1
        self.sees(PolicyServer__tiny_server="Idle")

    def _terminating(self) -> list[str]:
        lives = [pod_life for pod_life in list(self.player.played.values()) if LABEL_SERVER in pod_life.view.labels]
        return [pod_life.view.name for pod_life in lives if "deletionTimestamp" in pod_life.pod["metadata"]]

    def cut(self, what: str) -> None:
        """A moment at which everything stands still: what was made since the last one."""
        now = self.recording.now()
        names = " ".join(created_between(self.recording, self._since, now))
        self.created.append(f"{what}: {names}")
        self._since = now


@pytest.fixture
def stage(crds: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Stage]:
    account = grant(crds)
    with (
        record(crds, namespace) as recording,
        play(crds, namespaces=[namespace]) as player,
        start_operator(account, tmp_path, namespaces=[namespace]) as operator,
    ):
        default = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        player.until(lambda: _there(crds, default), default)
        yield Stage(crds, namespace, player, recording, operator)
        assert player.errors == []
        assert recording.errors == []


def _there(plane: ControlPlane, path: str) -> bool:
    try:
        return bool(plane.request("GET", path))
    except APIError:
        return False


def play_run(stage: Stage) -> None:
    """The life of the run, from its creation until it is Ready."""
    stage.plane.request("POST", f"/apis/psr.dev/v1alpha1/namespaces/{stage.namespace}/selfrewardruns", RUN)
    stage.sees(SelfRewardRun__tiny="FineTuning")
    stage.work("tiny-sft-a1", "SFTJob__tiny_sft", "Training")
    stage.cut("created")
    stage.end("tiny-sft-a1")
    for number in (1, 2):
        play_round(stage, number)
    stage.sees(
        SelfRewardRun__tiny="Evaluating",
        SelfRewardIteration__tiny_2="Succeeded",
        ModelEvaluation__tiny_m3_fresh="WaitingForServer",
        PolicyServer__tiny_server="Loading",
    )
    stage.cut("M3 is made")
    stage.serve()
    stage.work("tiny-m3-fresh-a1", "ModelEvaluation__tiny_m3_fresh", "Evaluating")
    stage.end("tiny-m3-fresh-a1")
    stage.sees(ModelEvaluation__tiny_m3_fresh="Succeeded", PolicyServer__tiny_server="Releasing")
    stage.let_server_go()
    stage.work("tiny-report-m3-a1", "SelfRewardRun__tiny", "Reporting")
    stage.cut("all is evaluated")
    stage.end("tiny-report-m3-a1")
    stage.sees(SelfRewardRun__tiny="Succeeded")
    stage.cut("reported")


def play_round(stage: Stage, number: int) -> None:
    """M(i) → M(i+1), and what M(i) is evaluated to."""
    name, model = f"tiny_{number}", f"tiny_m{number}_fresh"
    pairs, training = f"PreferenceGeneration__{name}_pairs", f"StepDPOJob__{name}_dpo"
    iteration, evaluation = f"SelfRewardIteration__{name}", f"ModelEvaluation__{model}"
    stage.sees(
        **{pairs: "WaitingForServer", evaluation: "WaitingForServer", iteration: "Generating"},
        PolicyServer__tiny_server="Loading",
        SelfRewardRun__tiny="Generating",
    )
    stage.serve()
    stage.work(f"tiny-m{number}-fresh-a1", evaluation, "Evaluating")
    stage.work(f"tiny-{number}-pairs-search-a1", pairs, "Searching")
    stage.cut(f"M{number} is made")
    stage.end(f"tiny-m{number}-fresh-a1")
    stage.sees(**{evaluation: "Succeeded"})
    stage.end(f"tiny-{number}-pairs-search-a1")
    stage.work(f"tiny-{number}-pairs-merge-a1", pairs, "Merging")
    stage.cut(f"M{number} has searched")
    stage.end(f"tiny-{number}-pairs-merge-a1")
    stage.sees(
        **{pairs: "Succeeded", training: "WaitingForGPUs", iteration: "Training"},
        PolicyServer__tiny_server="Releasing",
        SelfRewardRun__tiny="Training",
    )
    stage.cut(f"M{number} has made pairs")
    stage.let_server_go()
    stage.work(f"tiny-{number}-dpo-a1", training, "Training")
    stage.cut("the server has gone")
    stage.end(f"tiny-{number}-dpo-a1")


def test_a_run_goes_to_ready(stage: Stage) -> None:
    play_run(stage)
    recording = stage.recording
    assert transcript(stage) == golden(transcript(stage))
    check_statuses(recording)
    check_traces(recording)
    assert check_gpus(recording) == 5  # training, then twice server and training, and a server at the end
    check_roots(recording)
    check_events(stage)
    check_kubectl(stage)


def test_suspended_failed_and_mended_as_others_see_it(stage: Stage) -> None:
    name = "StepDPOJob__alone"
    job = {
        "apiVersion": "psr.dev/v1alpha1",
        "kind": "StepDPOJob",
        "metadata": {"name": "alone"},
        "spec": {
            "model": {"uri": "s3://bucket/m1"},
            "pairs": "s3://bucket/pairs",
            "storage": {"uri": "s3://bucket/runs"},
            "pod": BY_HAND,
            "suspend": True,
        },
    }
    collection = f"/apis/psr.dev/v1alpha1/namespaces/{stage.namespace}/stepdpojobs"
    merge = "application/merge-patch+json"
    stage.plane.request("POST", collection, job)
    stage.sees(**{name: "Suspended"})
    stage.plane.request("PATCH", f"{collection}/alone", {"spec": {"suspend": False}}, content=merge)
    stage.work("alone-a1", name, "Training")
    stage.player.release("alone-a1", Outcome(code=65, message='{"error": "a record is broken"}'))
    stage.sees(**{name: "DataError"})
    stage.plane.request("PATCH", f"{collection}/alone", {"spec": {"retries": {"backoffLimit": 1}}}, content=merge)
    stage.work("alone-a2", name, "Training")
    stage.end("alone-a2")
    stage.sees(**{name: "Succeeded"})
    assert changes_of(stage.recording) == {
        "StepDPOJob/alone": [
            "new",
            "Ready=False Suspended=True Suspended",
            "Ready=False Reconciling=True Starting",
            "Ready=False Reconciling=True Pending",
            "Ready=False Reconciling=True Training",
            "Ready=False Stalled=True DataError",
            "Ready=False Reconciling=True Starting",
            "Ready=False Reconciling=True Pending",
            "Ready=False Reconciling=True Training",
            "Ready=True Succeeded",
        ]
    }
    check_statuses(stage.recording)
    check_traces(stage.recording)
    check_events(stage)
    versions = [version.item for version in stage.recording.ours()]
    assert [status.value for status, _ in groupby(map(compute, versions))] == [
        "InProgress",  # new, suspended, at work
        "Failed",
        "InProgress",  # from the very moment at which the spec was mended
        "Current",
    ]
    assert [said for said, _ in groupby(flux_says([item]) for item in versions)] == [
        "waiting",
        "unhealthy",
        "waiting",
        "healthy",
    ]


# --- the golden file ---------------------------------------------------------------------------------------


def transcript(stage: Stage) -> str:
    """What was created and what changed, as text."""
    lines = ["created", *(f"  {line}" for line in stage.created)]
    for name, changes in sorted(changes_of(stage.recording).items()):
        lines += [name, *(f"  {line}" for line in changes)]
    return "\n".join(lines) + "\n"


def golden(text: str) -> str:
    if os.environ.get("PSR_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    return GOLDEN.read_text()


# --- what users see ----------------------------------------------------------------------------------------


def check_roots(recording: Recording) -> None:
    """The run is Current from the moment on at which it is Ready, and only then do others believe that it is done."""
    versions = [version.item for version in recording.versions("SelfRewardRun")]
    done = [compute(item) is KStatus.CURRENT for item in versions]
    assert done == [kubectl_wait(item) for item in versions] == [flux_says([item]) == "healthy" for item in versions]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (False, True)
    assert {flux_says([item]) for item in versions} == {"waiting", "healthy"}


def check_events(stage: Stage) -> None:
    """There is an event for each transition that is worth one, in order, and none besides."""
    owned = {v.name for v in stage.recording.versions() if v.item["metadata"].get("ownerReferences")}
    changes = changes_of(stage.recording)
    wanted = {name: eventful(lines, root=name not in owned) for name, lines in changes.items()}
    # An event comes after the status that it tells of: the last one may still be on its way.
    count = sum(map(len, wanted.values()))
    stage.player.until(lambda: len(_events(stage)) >= count, "the last event", SECONDS)
    items = _events(stage)
    reasons_of: dict[str, list[str]] = {}
    for item in sorted(items, key=lambda item: int(item["metadata"]["resourceVersion"])):
        about = item["involvedObject"]
        reasons_of.setdefault(f"{about['kind']}/{about['name']}", []).append(item["reason"])
        assert item["message"]
    assert reasons_of == {name: reasons for name, reasons in wanted.items() if reasons}


def _events(stage: Stage) -> list[dict[str, Any]]:
    """The operator's own events."""
    items = stage.plane.request("GET", f"/api/v1/namespaces/{stage.namespace}/events")["items"]
    return [item for item in items if item["source"].get("component") == "psr-operator"]


def eventful(changes: list[str], *, root: bool) -> list[str]:
    """The reasons that are worth an event: a failure; for an object that users made, another row of the condition table
    than before. To begin is neither, and of children that do well their parent's events tell."""
    reasons, before = [], ""
    for line in changes:
        if not line.startswith("Ready="):
            continue
        row, reason = line.rsplit(" ", 1)
        begins = not before and "Reconciling=True" in row
        if "Stalled=True" in row or reason == "Retrying" or (root and row != before and not begins):
            reasons.append(reason)
        before = row
    return reasons


def check_kubectl(stage: Stage) -> None:
    """What kubectl says of a finished run."""
    plane, space = stage.plane, f"--namespace={stage.namespace}"
    command = [str(plane.kubectl), f"--kubeconfig={plane.kubeconfig}", space]
    waited = subprocess.run([*command, "wait", "--for=condition=Ready", "srr/tiny", "--timeout=10s"], check=False)
    assert waited.returncode == 0
    for short in ("srr", "sri", "pgen", "sdj", "sft", "meval", "psv"):
        header, *lines = plane.ctl(space, "get", short).splitlines()
        assert header.split() == ["NAME", "READY", "REASON", "STEP", "PROGRESS", "AGE"]
        assert lines
        for line in lines:
            reads_well(header, line)
    everything = [line for line in plane.ctl(space, "get", "psr").splitlines() if line and not line.startswith("NAME")]
    assert len(everything) == len({version.name for version in stage.recording.versions(*KINDS)})
    assert all(len(line) <= 120 for line in everything), everything
    described = plane.ctl(space, "describe", "srr", "tiny")
    assert "Events:" in described
    assert "Succeeded" in described.split("Events:")[1]


def reads_well(header: str, line: str) -> None:
    """A line of `kubectl get` is short, and says how the object stands and why."""
    assert len(line) <= 120, line
    for column in ("READY", "REASON", "STEP", "AGE"):
        place = header.index(column)
        word = line[place:].split(maxsplit=1)[0]
        assert line[place] != " ", f"{column} is empty: {line}"
        assert word != "<none>", line
