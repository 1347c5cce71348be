"""A pod's life as a kubelet writes it: running, ended as the script says, started again, removed once it is deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from harness.control_plane.pod_ports import PROGRESS_PORT, Serving, digest_of
from harness.control_plane.pod_status import condition, container_status, environment_of, now, played_container
from psr_operator.local.rehearsal import rehearsed_result
from psr_runtime.stages import STAGES

if TYPE_CHECKING:
    from harness.control_plane.player import Player

RESTART_SECONDS = 0.2
INDEX = "batch.kubernetes.io/job-completion-index"
SERVE = "serve.json"
MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class Outcome:
    """What becomes of a container.

    Attributes:
        delay: seconds that it runs.
        code: its exit code.
        message: its termination message; None for the stage's result where `code` is 0, else for nothing.
        reason: `OOMKilled` say; None for what the code says.
        disruption: whether the pod is evicted: it gets the condition DisruptionTarget.
        hold: runs until `Player.release`.
        start_seconds: from its binding to its start.
        stop_seconds: how long it goes on once the pod is deleted; None: until `Player.release`.
    """

    delay: float = 0.0
    code: int = 0
    message: str | None = None
    reason: str | None = None
    disruption: bool = False
    hold: bool = False
    start_seconds: float = 0.0
    stop_seconds: float | None = 0.0


@dataclass(frozen=True)
class Pod:
    """A pod as a script sees it."""

    name: str
    namespace: str
    address: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    environment: Mapping[str, str]
    restarts: int = 0

    @property
    def stage(self) -> str:
        return self.labels.get("psr.dev/stage", "")

    @property
    def workload(self) -> str:
        return self.labels.get("psr.dev/workload", "")

    @property
    def attempt(self) -> int:
        return int(self.labels.get("psr.dev/attempt", 0))

    @property
    def index(self) -> int:
        """Completion index in its Job."""
        return int(self.annotations.get(INDEX, 0))

    @property
    def names(self) -> tuple[str, ...]:
        """By what it is called: its Job, its Workload, itself."""
        names = (self.labels.get("batch.kubernetes.io/job-name", ""), self.workload, self.name)
        return tuple(name for name in names if name)

    @property
    def config(self) -> dict[str, Any] | None:
        """Its stage configuration."""
        text = self.environment.get("PSR_STAGE_CONFIG")
        return json.loads(text) if text is not None else None

    @property
    def result(self) -> str:
        """The termination message of a stage that is done; empty for a pod that runs no stage."""
        config = self.config
        if config is None:
            return ""
        result = {"output": config["output"], "digest": digest_of(config["output"])}
        return json.dumps(result | (rehearsed_result(self.stage) if self.stage in STAGES else {}))


def succeed(pod: Pod) -> Outcome:
    """The script by which every stage succeeds at once and every server stays."""
    return Outcome() if pod.stage or pod.config is not None else Outcome(hold=True)


@dataclass
class PlayedPod:
    """One pod on the player's node."""

    player: Player
    pod: dict[str, Any]
    view: Pod = field(init=False)

    def __post_init__(self) -> None:
        meta = self.pod["metadata"]
        address = self.player.ports.address()
        self._path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self.view = Pod(
            meta["name"],
            meta["namespace"],
            address,
            meta.get("labels", {}),
            meta.get("annotations", {}),
            environment_of(self.pod, address),
        )
        self._deleted = asyncio.Event()
        self._released = asyncio.Event()
        self._instead: Outcome | None = None
        self._serving: Serving | None = None
        self._started = ""
        self._last: dict[str, Any] = {}
        self._writing = asyncio.Lock()
        self._runs = False
        self._task: asyncio.Task[Any]

    # --- what happens to it ------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._task = self.player.spawn(self._live())

    def seen(self, pod: dict[str, Any]) -> None:
        """The pod as it is stored now."""
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"] and not self._deleted.is_set():
            self._deleted.set()
            if self._task.done():
                self.player.spawn(self._remove())

    def vanished(self) -> None:
        """There is no pod any more."""
        self._task.cancel()
        self._close()

    def release(self, outcome: Outcome | None) -> None:
        """See `Player.release`."""
        self._instead = outcome
        self._released.set()

    # --- its life ----------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        if self._deleted.is_set():
            await self._lose()
            return
        self.player.counts["started"] += 1
        while True:
            outcome = self.player.script(self.view)
            if outcome.start_seconds:
                await _first(asyncio.sleep(outcome.start_seconds), self._deleted.wait())
                if self._deleted.is_set():
                    await self._lose()
                    return
            at_once = self.player.plays_jobs and not (outcome.hold or outcome.delay)
            if at_once:
                self._started = now()
            else:
                await self._run()
            outcome = await self._wait(outcome)
            restart = not self._deleted.is_set() and self._restarts(outcome)
            self._close()
            await self._write_ended(outcome, restart=restart)
            if not restart:
                break
            await _first(asyncio.sleep(RESTART_SECONDS), self._deleted.wait())
            self.player.counts["restarted"] += 1
            self.view = replace(self.view, restarts=self.view.restarts + 1)
        self.player.counts["finished"] += 1
        self.player.counts["failed"] += outcome.code != 0
        if self._deleted.is_set():
            await self._remove()

    async def _lose(self) -> None:
        """It is deleted before its container has started."""
        lost = Outcome(code=137, reason="ContainerStatusUnknown", message="The container could not be located")
        await self._write_ended(lost, restart=False)
        await self._remove()

    async def _run(self) -> None:
        self._started, self._runs = now(), True
        if self.player.with_ports:
            await self._answer()
        await self._write_running()

    async def _wait(self, outcome: Outcome) -> Outcome:
        """Until the container ends; how."""
        if outcome.hold:
            await _first(self._released.wait(), self._deleted.wait())
        elif outcome.delay:
            await _first(asyncio.sleep(outcome.delay), self._released.wait(), self._deleted.wait())
        if self._deleted.is_set() and not self._released.is_set() and (outcome.hold or outcome.delay):
            stays = asyncio.sleep(outcome.stop_seconds) if outcome.stop_seconds is not None else asyncio.Event().wait()
            await _first(stays, self._released.wait())
            outcome = Outcome(code=75 if self.view.config is not None else 0, message="")
        outcome, self._instead = self._instead or outcome, None
        self._released.clear()
        return outcome

    async def _remove(self) -> None:
        body = {
            "gracePeriodSeconds": 0,
            "propagationPolicy": "Background",
            "preconditions": {"uid": self.pod["metadata"]["uid"]},
        }
        await self.player.write("DELETE", self._path, body)

    def _restarts(self, outcome: Outcome) -> bool:
        policy = self.pod["spec"].get("restartPolicy", "Always")
        return not outcome.disruption and (policy == "Always" or (policy == "OnFailure" and outcome.code != 0))

    # --- what it answers ---------------------------------------------------------------------------------------

    async def _answer(self) -> None:
        config = await self._serve_config()
        if config is None:
            await self.player.ports.open(self.view.address, (PROGRESS_PORT,), self._tell_progress)
            return
        player = self.player
        self._serving = Serving(
            self.view.name,
            lambda: player.load_seconds,
            player.broken,
            player.orders,
            lambda: player.spawn(self._write_running()),
        )
        await player.ports.open(self.view.address, (int(config.get("port", 8000)) + 1,), self._serving.answer)
        self._serving.load(config["model"]["uri"], None, first=True)

    async def _tell_progress(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/progress":
            return web.Response(status=404)
        return web.json_response(self.player.progress_of(self.view))

    async def _serve_config(self) -> dict[str, Any] | None:
        """What a server pod is to serve: `serve.json` of a ConfigMap that it mounts."""
        for volume in self.pod["spec"].get("volumes", []):
            name = volume.get("configMap", {}).get("name")
            if name is None or volume["name"].startswith("kube-api-access"):
                continue
            config_map = await self.player.write("GET", f"/api/v1/namespaces/{self.view.namespace}/configmaps/{name}")
            if config_map is not None and SERVE in config_map.get("data", {}):
                config: dict[str, Any] = json.loads(config_map["data"][SERVE])
                return config
        return None

    def _close(self) -> None:
        self.player.ports.close(self.view.address)
        if self._serving is not None:
            self._serving.stop()
            self._serving = None

    # --- what it writes ----------------------------------------------------------------------------------------

    async def _write_running(self) -> None:
        async with self._writing:
            if self._runs:  # a server that got ready while it ended is not written as running again
                ready = self._serving is None or self._serving.ready
                state = {"running": {"startedAt": self._started}}
                await self._write("Running", self._conditions(ready), self._containers(state, ready))

    async def _write_ended(self, outcome: Outcome, *, restart: bool) -> None:
        self._runs = False
        ended = {
            "exitCode": outcome.code,
            "reason": outcome.reason or ("Completed" if outcome.code == 0 else "Error"),
            "message": outcome.message if outcome.message is not None else self.view.result if not outcome.code else "",
            "startedAt": self._started or now(),
            "finishedAt": now(),
        }
        phase = "Succeeded" if outcome.code == 0 and not outcome.disruption else "Failed"
        state: dict[str, Any] = {"terminated": ended}
        if restart:
            self._last = {"terminated": ended}
            state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
        conditions = self._conditions(False, "" if restart else f"Pod{phase.replace('Succeeded', 'Completed')}")
        if outcome.disruption:
            conditions.append(condition("DisruptionTarget", True, "EvictionByEvictionAPI"))
        async with self._writing:
            await self._write("Running" if restart else phase, conditions, self._containers(state, False))

    async def _write(self, phase: str, conditions: list[dict[str, Any]], containers: list[dict[str, Any]]) -> None:
        status: dict[str, Any] = {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "hostIPs": [{"ip": "127.0.0.1"}],
            "podIP": self.view.address,
            "podIPs": [{"ip": self.view.address}],
            "conditions": conditions,
            "containerStatuses": containers,
        }
        if "startTime" not in self.pod.get("status", {}):
            status["startTime"] = self._started or now()
        first = self.pod["spec"].get("initContainers")
        if first:
            done = {"exitCode": 0, "reason": "Completed", "startedAt": self._started, "finishedAt": self._started}
            status["initContainerStatuses"] = [
                container_status(item, {"terminated": done}, ready=True, restarts=0, last={}) for item in first
            ]
        body = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": status}
        stored = await self.player.write("PATCH", f"{self._path}/status", body, MERGE)
        if stored is not None:
            self.pod = stored

    def _conditions(self, ready: bool, why: str = "") -> list[dict[str, Any]]:
        mine = [
            condition("PodReadyToStartContainers", True),
            condition("Initialized", True),
            condition("ContainersReady", ready, why),
            condition("Ready", ready, why),
        ]
        before = {item["type"]: item for item in self.pod.get("status", {}).get("conditions", [])}
        for item in mine:
            old = before.pop(item["type"], None)
            if old is not None and old["status"] == item["status"]:
                item["lastTransitionTime"] = old["lastTransitionTime"]
        return [*before.values(), *mine]

    def _containers(self, state: dict[str, Any], ready: bool) -> list[dict[str, Any]]:
        """As a kubelet lists them: by name. Those of others run as long as the played one, and end well."""
        played, restarts = played_container(self.pod), self.view.restarts
        beside: dict[str, Any] = {"running": {"startedAt": self._started}}
        if "terminated" in state:
            beside = {"terminated": {**state["terminated"], "exitCode": 0, "reason": "Completed", "message": "bye"}}
        return [
            container_status(item, state, ready=ready, restarts=restarts, last=self._last)
            if item["name"] == played["name"]
            else container_status(item, beside, ready="running" in beside, restarts=0, last={})
            for item in sorted(self.pod["spec"]["containers"], key=lambda item: str(item["name"]))
        ]


async def _first(*things: Any) -> None:
    """Wait until one of these is over; drop the others."""
    tasks = [asyncio.ensure_future(thing) for thing in things]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
