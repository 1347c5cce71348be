"""A rehearsal: the operator's real process with many runs, on a real control plane with played nodes.

Scheduler and controllers are real and the player (`harness/control_plane/player.py`) plays the nodes, so what is
rehearsed is everything but containers: Jobs, Deployments, bindings, releases of GPUs, garbage collection. All runs are
made together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from harness.control_plane.client import Client
from harness.control_plane.paths import KINDS, collection_of
from harness.control_plane.plane import CONTROLLERS, APIError, ControlPlane, start_control_plane
from harness.control_plane.player import Outcome, Player, Pod, play
from harness.measuring import delays_of, memory_after_import_mb, memory_mb, memory_of, requests_of
from harness.operator_process import HOME, Operator, grant, start_operator
from harness.rehearsal.figures import Figures
from harness.rehearsal.witness import (
    REPORTER,
    RUN,
    Object,
    Scale,
    Witness,
    condition,
    log_faults,
    orphans,
    refusals,
    status_faults,
)
from psr_operator import api
from psr_operator.api import GROUP, VERSION
from psr_operator.api.crd import rendered
from psr_operator.render import LABEL_UID

NAMESPACE = "rehearsal"
KINDS_OF_RUNS = (*(kind for kind in KINDS if kind not in ("Event", "Lease")), "EndpointSlice")
"""Of everything that is made for a run."""
PROGRESS_SECONDS = 10.0
PAGE = 500
CAPACITY = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}
"""Of a node."""
IMPORTS = "psr_operator.cli, psr_operator.controller.process"
"""What the operator's process imports."""
Say = Callable[[str], None]


def run(number: int, iterations: int) -> Object:
    """A run with everything: M1 is trained too, searches have shards, server and trainings share GPUs."""
    name = f"run-{number:03}"
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SelfRewardRun",
        "metadata": {"name": name, "labels": {RUN: name}},
        "spec": {
            "model": {"uri": "s3://bucket/models/m0"},
            "problems": "s3://bucket/problems.jsonl",
            "storage": {"uri": "s3://bucket/runs"},
            "sft": {"ift": "s3://bucket/ift.jsonl"},
            "iterations": [{"questions": 100}] * iterations,
            "evaluations": [{"name": "test", "problems": "s3://bucket/test.jsonl"}],
            "searchShards": 2,
            "searchResources": {"cpu": "1", "memory": "2Gi"},
            "server": {"resources": {"gpus": 1}},
            "trainingResources": {"gpus": 1},
        },
    }


def rehearse(scale: Scale, folder: Path, say: Say = lambda _: None) -> Figures:
    """Rehearse on a control plane of its own.

    Args:
        folder: keys, data and all logs.
        say: told of the progress, a line at a time.

    Raises:
        RuntimeError: the control plane or the operator did not start.
    """
    controllers = (*CONTROLLERS, "node-lifecycle-controller")
    with start_control_plane(folder, controllers=controllers) as plane:
        _prepare(plane)
        with play(
            plane,
            namespaces=[NAMESPACE],
            script=lifespans(scale.pace),
            load_seconds=2.0 * scale.pace,
            nodes=scale.nodes,
            capacity=CAPACITY,
            heartbeat=True,
        ) as player:
            return asyncio.run(Rehearsal(scale, plane, player, say).go())


def lifespans(factor: float) -> Callable[[Pod], Outcome]:
    """What becomes of pods: delays as on a node that has the images, drawn evenly, times `pace`."""
    chance = random.Random(0)

    def script(pod: Pod) -> Outcome:
        starts, stops = chance.uniform(0.3, 1.5) * factor, chance.uniform(0.5, 3.0) * factor
        if not pod.stage:  # a server
            return Outcome(hold=True, start_seconds=starts, stop_seconds=stops)
        return Outcome(delay=chance.uniform(1.0, 5.0) * factor, start_seconds=starts, stop_seconds=stops)

    return script


def _prepare(plane: ControlPlane) -> None:
    """PSR's kinds and the namespace."""
    for text in rendered().values():
        (name,) = re.findall(r"(?m)^  name: (\S+)$", text)[:1]
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=rehearsal&force=true"
        plane.request("PATCH", path, text, content="application/apply-patch+yaml")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
    deadline = time.monotonic() + 60
    for kind in api.KINDS:
        while True:
            with contextlib.suppress(APIError):
                plane.request("GET", f"{collection_of(kind, NAMESPACE)}?limit=1")
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{kind} is not served; see {plane.folder}/kube-apiserver.log")
            time.sleep(0.05)


class Rehearsal:
    """One rehearsal, from the nodes to the end of the last object."""

    def __init__(self, scale: Scale, plane: ControlPlane, player: Player, say: Say) -> None:
        self.scale = scale
        self.plane = plane
        self.player = player
        self.say = say
        self.witness = Witness()
        self.processes = dict(plane.processes)
        self.watching: list[asyncio.Task[None]] = []

    async def go(self) -> Figures:
        plane, scale = self.plane, self.scale
        async with contextlib.AsyncExitStack() as stack:
            self.client = await stack.enter_async_context(Client(plane))
            account = await asyncio.to_thread(grant, plane)
            operator = await asyncio.to_thread(
                stack.enter_context, start_operator(account, plane.folder, lease_seconds=scale.lease, poll_seconds=10.0)
            )
            await self._until(operator.leads, "the operator leads", 60.0)
            self._watch()
            progress = asyncio.create_task(self._tell_progress(operator))
            try:
                seconds = await self._until_ready(operator)
                return await self._judge(operator, account.user, seconds)
            finally:
                for task in (progress, *self.watching):
                    task.cancel()
                await asyncio.gather(progress, *self.watching, return_exceptions=True)

    def _watch(self) -> None:
        witness = self.witness
        for kind, tell in (("Pod", witness.pod), ("Job", witness.job), ("SelfRewardRun", witness.run)):
            path = collection_of(kind, NAMESPACE)
            self.watching.append(asyncio.create_task(self.client.watch(path, tell, lambda: None)))

    async def _until_ready(self, operator: Operator) -> float | None:
        """Make all runs together and wait for the last one that is Ready; the seconds, None where not all were."""
        scale, path = self.scale, collection_of("SelfRewardRun", NAMESPACE)
        begun = time.monotonic()
        bodies = [run(number, scale.iterations) for number in range(scale.runs)]
        await asyncio.gather(*(self.client.request("POST", path, body) for body in bodies))
        await self._happens(lambda: len(self.witness.settled) == scale.runs, scale.limit, operator)
        seconds = time.monotonic() - begun
        if len(self.witness.ready) == scale.runs:
            return seconds
        for item in await self._list("SelfRewardRun"):
            if item["metadata"]["name"] not in self.witness.ready:
                why = condition(item, "Ready").get("message", "nobody has looked at it")
                self.witness.faults["ready"].append(f"{item['metadata']['name']}: {why}")
        return None

    async def _judge(self, operator: Operator, user: str, seconds: float | None) -> Figures:
        """Look at everything that is there, delete all runs, look again."""
        witness, faults, scale = self.witness, self.witness.faults, self.scale
        settled = await self._happens(lambda: not witness.live, 60.0, operator)
        if seconds is not None:
            witness.count(scale)
            if not settled:
                faults["ready"].append(f"{len(witness.live)} pods are still at work a minute after all runs are Ready")
        alive = operator.process.poll() is None
        delays = delays_of(operator.metrics()) if alive else {}
        memory = memory_of(operator.process.pid) if alive else {}
        asked = await asyncio.to_thread(requests_of, self.plane, user)
        objects = [item for kind in KINDS_OF_RUNS for item in await self._list(kind)]
        for key, lines in status_faults(item for item in objects if item["kind"] in api.KINDS).items():
            faults[key] += lines
        faults["orphans"] += orphans(objects)
        vanished = await self._vanish() if operator.process.poll() is None else None
        warnings = await self._warnings()
        refused = await asyncio.to_thread(refusals, self.plane.folder, user)
        faults["refused"] += [f"{what} × {count}" for what, count in refused.items() if what[:3] not in ("404", "409")]
        faults["log"] += log_faults(operator.said())
        await self._process_faults(operator)
        return Figures(
            scale=asdict(scale),
            seconds=round(seconds, 1) if seconds is not None else None,
            delays=delays,
            writes=asked.writes,
            writes_per_iteration=round(asked.writes / (scale.runs * scale.iterations), 1),
            writes_by_kind=asked.by_kind,
            reads=asked.reads,
            refused=dict(refused),
            operator=memory | {"import_mb": round(memory_after_import_mb(IMPORTS), 1)},
            jobs=dict(witness.jobs),
            pods=dict(witness.pods),
            most_pending=witness.most_pending,
            vanish_seconds=vanished,
            warnings=dict(warnings),
            log_warnings=operator.said().count(" WARNING "),
            faults=faults,
        )

    async def _vanish(self) -> float | None:
        """Delete all runs and wait until nothing of them is left; the seconds."""
        kinds = [kind for kind in KINDS_OF_RUNS if kind not in ("ConfigMap", "Secret")]
        begun = time.monotonic()
        self.say("all runs are deleted")
        await self.client.request(
            "DELETE", collection_of("SelfRewardRun", NAMESPACE), {"propagationPolicy": "Background"}
        )
        looks = 0  # that found nothing: a second one, for what might come again
        left: list[str] = []
        while looks < 2 and time.monotonic() < begun + max(60.0, self.scale.limit / 2):
            await asyncio.sleep(2.0)
            left = [kind for kind in kinds if (await self._page(kind, 1))["items"]]
            looks = 0 if left else looks + 1
        seconds = time.monotonic() - begun
        # Those of which the namespace has some of its own.
        ours = [item for kind in ("ConfigMap", "Secret") for item in await self._list(kind)]
        left += [
            f"{item['kind']}/{item['metadata']['name']}"
            for item in ours
            if LABEL_UID in item["metadata"].get("labels", {})
        ]
        self.witness.faults["orphans"] += [f"{what} is left after the runs" for what in left]
        return None if left else round(seconds, 1)

    async def _warnings(self) -> Counter[str]:
        """Warning events of others; those of the operator are faults."""
        warnings: Counter[str] = Counter()
        for item in await self._list("Event"):
            reporter = item.get("reportingComponent") or item.get("source", {}).get("component", "")
            if item.get("type") != "Warning":
                continue
            about = item["involvedObject"]
            if reporter == REPORTER or about["kind"] in api.KINDS:
                self.witness.faults["events"].append(
                    f"{about['kind']}/{about['name']}: {item['reason']}: {item['message']}"
                )
            else:
                warnings[f"{reporter} {item['reason']}"] += 1
        return warnings

    async def _process_faults(self, operator: Operator) -> None:
        faults = self.witness.faults
        code = operator.process.poll()
        if code is not None:
            faults["process"].append(f"it ended with code {code}")
        path = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases/{operator.lease}"
        lease = (await self.client.request("GET", path))["spec"]
        if lease.get("leaseTransitions", 0) or lease.get("holderIdentity") != "operator-0":
            faults["process"].append(f"the Lease changed hands: {lease}")
        faults["rehearsal"] += [f"{name} ended with code {code}" for name, code in self._ended()]
        faults["rehearsal"] += [repr(error) for error in self.player.errors]
        for task in self.watching:
            if task.done() and not task.cancelled():
                faults["rehearsal"].append(f"a watch ended: {task.exception()!r}")

    # --- questions

    async def _list(self, kind: str) -> list[Object]:
        """All objects of a kind in the namespace."""
        objects: list[Object] = []
        following = ""
        while True:
            answer = await self._page(kind, PAGE, following)
            objects += [{**item, "kind": kind} for item in answer["items"]]
            following = answer["metadata"].get("continue", "")
            if not following:
                return objects

    async def _page(self, kind: str, limit: int, following: str = "") -> Object:
        path = (
            f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
            if kind == "EndpointSlice"
            else collection_of(kind, NAMESPACE)
        )
        page: Object = await self.client.request("GET", f"{path}?limit={limit}&continue={following}")
        return page

    async def _until(self, happened: Callable[[], bool], what: str, seconds: float) -> None:
        if not await self._happens(happened, seconds, None):
            raise RuntimeError(f"{what}: not within {seconds:.0f} s; see the logs in {self.plane.folder}")

    async def _happens(self, happened: Callable[[], bool], seconds: float, operator: Operator | None) -> bool:
        """Whether something happens in time; not, once a process or a watch of the rehearsal has ended."""
        deadline = time.monotonic() + seconds
        while not happened():
            ended = self._ended() or any(task.done() for task in self.watching)
            if ended or (operator is not None and operator.process.poll() is not None) or time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.1)
        return True

    def _ended(self) -> list[tuple[str, int]]:
        codes = ((name, process.poll()) for name, process in self.processes.items())
        return [(name, code) for name, code in codes if code is not None]

    async def _tell_progress(self, operator: Operator) -> None:
        begun = time.monotonic()
        witness, scale = self.witness, self.scale
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            if operator.process.poll() is not None:
                return
            self.say(
                f"{time.monotonic() - begun:6.0f} s: {len(witness.ready)}/{scale.runs} runs are Ready, "
                f"{sum(witness.models.values())}/{scale.runs * (scale.iterations + 1)} models, "
                f"{witness.jobs.total()}/{scale.jobs} Jobs, {witness.pods.total()} pods "
                f"({len(witness.live)} live, at most {witness.most_pending} pending), "
                f"operator {memory_mb(operator.process.pid):.0f} MB"
            )
