"""Plays the nodes of a control plane that has no kubelet: pods run, succeed, fail and go as a script says.

    with play(plane, namespaces=[namespace], script=lambda pod: Outcome(code=65)) as player:
        …

What a pod's life writes is in `pod_life.py`; what pods answer over HTTP in `pod_ports.py`; `jobs=True` plays the Job
and Deployment controllers as well (`controllers.py`), and `bind=True` the scheduler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from typing import Any

from harness.control_plane.client import Client
from harness.control_plane.nodes import keep_alive, make_nodes, remove_nodes
from harness.control_plane.plane import APIError, ControlPlane
from harness.control_plane.pod_life import Outcome, PlayedPod, Pod, succeed
from harness.control_plane.pod_ports import Order, Ports

START_SECONDS = 30.0
CAPACITY = {"cpu": "1000000", "memory": "1000Ti", "pods": "1000000", "nvidia.com/gpu": "64"}
LOG = logging.getLogger("player")

__all__ = ["Outcome", "Player", "Pod", "play", "succeed"]


class Player:
    """Fake nodes and all that happens on them. Made by `play`; its methods may be called from any thread.

    Attributes:
        nodes: their names; `node` is the first one.
        script: what becomes of a pod; may be replaced at any time, pods ask it when their container starts.
        load_seconds: how long a server pod loads a model.
        broken: URI -> message: models that server pods cannot load.
        orders: every `PUT /psr/model` that was received.
        counts: pods `started`, `finished`, `failed`, `restarted`, `removed`; `requests`.
        errors: whatever went wrong in the player itself; tests assert that it is empty.
    """

    def __init__(
        self,
        plane: ControlPlane,
        *,
        namespaces: Collection[str] | None,
        script: Callable[[Pod], Outcome],
        load_seconds: float,
        bind: bool,
        jobs: bool,
        brief: bool,
        ports: bool,
        connections: int,
        nodes: int,
        capacity: Mapping[str, str],
        heartbeat: bool,
    ) -> None:
        self.node = f"player-{secrets.token_hex(4)}"
        self.nodes = [self.node, *(f"{self.node}-{number}" for number in range(1, nodes))]
        self.script = script
        self.load_seconds = load_seconds
        self.broken: dict[str, str] = {}
        self.orders: list[Order] = []
        self.counts: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.with_ports = ports
        self.plays_jobs = jobs
        self.brief = brief
        self.played: dict[str, PlayedPod] = {}
        self.client: Client
        self.ports: Ports
        self._plane = plane
        self._namespaces = namespaces
        self._bind = bind or jobs
        self._connections = connections
        self._capacity = capacity
        self._heartbeat = heartbeat
        self._progress: dict[str, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop
        self._stopped: asyncio.Event
        self._listed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.node, daemon=True)

    # --- what tests say and ask --------------------------------------------------------------------------------

    def release(self, name: str, outcome: Outcome | None = None) -> int:
        """Let pods go on that their outcome holds, or that do not stop.

        Args:
            name: of a pod, or of its Workload (label psr.dev/workload), or of its Job.
            outcome: how they end; unset, as their script said.

        Returns:
            How many there were.
        """
        played = [one for one in list(self.played.values()) if name in one.view.names]
        for one in played:
            self._loop.call_soon_threadsafe(one.release, outcome)
        return len(played)

    def progress(self, name: str, **values: Any) -> None:
        """Set what `/progress` answers (`done`, `total`, `unit`, `eta`) for pods of this name, Workload or Job."""
        self._progress[name] = {**self._progress.get(name, {}), **values}

    def pods(self, name: str | None = None) -> list[Pod]:
        """The pods on the node, all of them or those of a Workload or Job."""
        return [one.view for one in list(self.played.values()) if name is None or name in one.view.names]

    def until(self, happened: Callable[[], Any], what: str = "", seconds: float = 30.0) -> Any:
        """Wait for something; what it returned once that is true.

        Raises:
            AssertionError: it does not happen in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            result = happened()
            if result:
                return result
            assert time.monotonic() < deadline, f"{what or happened} did not happen in {seconds} s; {self.errors}"
            time.sleep(0.02)

    # --- what lives and controllers need -----------------------------------------------------------------------

    def progress_of(self, pod: Pod) -> dict[str, Any]:
        """The answer of a pod's `/progress`."""
        progress = {"stage": pod.stage, "done": 0, "total": None, "unit": "", "eta": None}
        for name in pod.names:
            progress |= self._progress.get(name, {})
        return progress

    def plays(self, item: dict[str, Any]) -> bool:
        """Whether an object lies in a namespace that is played."""
        return self._namespaces is None or item["metadata"]["namespace"] in self._namespaces

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in the background; what it raises is an error of the player."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def write(self, verb: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """A request about an object that may be gone or replaced by now: None then."""
        self.counts["requests"] += 1
        try:
            return await self.client.request(verb, path, body, content=content)
        except APIError as error:
            if error.code in (404, 409) or "is being terminated" in str(error):
                LOG.debug("%s", error)
                return None
            raise

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOG.error("%r", error, exc_info=error)
            self.errors.append(error)

    # --- the thread --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start playing; returns once the node is there and the pods are listed."""
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._listed.wait(0.05):
            if self.errors:
                raise self.errors[0]
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise TimeoutError(f"the player did not start in {START_SECONDS} s")

    def stop(self) -> None:
        """Remove the node and end the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError, AttributeError):  # its loop has ended by itself, or not begun
                self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(START_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._play())
        except BaseException as error:
            LOG.error("%r", error, exc_info=error)
            self.errors.append(error)

    async def _play(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self.ports = Ports()
        async with Client(self._plane, connections=self._connections) as self.client:
            await make_nodes(self.client, self.nodes, self._capacity)
            if self._heartbeat:
                self.spawn(keep_alive(self.client, self.nodes))
            if self.plays_jobs:
                from harness.control_plane.controllers import Controllers

                controllers = Controllers(self)
                self.spawn(self._watch("/apis/batch/v1/jobs", controllers.job, lambda: None))
                self.spawn(self._watch("/apis/apps/v1/deployments", controllers.deployment, lambda: None))
                self.spawn(
                    self._watch("/api/v1/pods", lambda event, pod: self._pod(event, pod, controllers), self._listed.set)
                )
            else:
                self.spawn(self._watch("/api/v1/pods", self._pod, self._listed.set))
            await self._stopped.wait()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.ports.close_all()
            await remove_nodes(self.client, self.nodes)

    async def _watch(self, path: str, tell: Callable[..., None], listed: Callable[[], None]) -> None:
        await self.client.watch(path, tell, listed)

    def _pod(self, kind: str, pod: dict[str, Any], controllers: Any = None) -> None:
        if not self.plays(pod):
            return
        if controllers is not None:
            controllers.pod(kind, pod)
        uid = pod["metadata"]["uid"]
        played = self.played.get(uid)
        if kind == "DELETED":
            if played is not None:
                self.counts["removed"] += 1
                played.vanished()
                del self.played[uid]
            return
        node = pod["spec"].get("nodeName")
        if node is None and self._bind and kind == "ADDED" and "deletionTimestamp" not in pod["metadata"]:
            self.spawn(self.bind(pod))
        if node not in self.nodes:
            return
        if played is None:
            self.played[uid] = played = PlayedPod(self, pod)
            played.begin()
        played.seen(pod)

    async def bind(self, pod: dict[str, Any]) -> None:
        """What the scheduler does."""
        if pod["spec"].get("schedulingGates"):
            return
        meta = pod["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "uid": meta["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node},
        }
        await self.write("POST", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding", body)


@contextlib.contextmanager
def play(
    plane: ControlPlane,
    *,
    namespaces: Collection[str] | None = None,
    script: Callable[[Pod], Outcome] = succeed,
    load_seconds: float = 0.0,
    bind: bool = False,
    jobs: bool = False,
    brief: bool = False,
    ports: bool = True,
    connections: int = 32,
    nodes: int = 1,
    capacity: Mapping[str, str] = CAPACITY,
    heartbeat: bool = False,
) -> Iterator[Player]:
    """Play a node, or several, until the block ends.

    Args:
        plane: whose pods.
        namespaces: whose pods; None for all.
        script: what becomes of each pod; called in the player's thread whenever its container starts.
        load_seconds: how long a server pod loads a model.
        bind: bind pods to the node, where no scheduler does.
        jobs: be the Job and Deployment controllers and the scheduler, and collect the pods of deleted owners. Pods
            that end at once are never shown running then.
        brief: write a Job's status only at its end: a third less to do for the apiserver where pods end at once.
        ports: answer `/progress` and the control port on the pods' addresses.
        connections: requests to the apiserver at the same time.
        nodes: how many; a scheduler spreads the pods over them.
        capacity: of each node.
        heartbeat: renew the nodes' Leases; needed where a node lifecycle controller runs.
    """
    player = Player(
        plane,
        namespaces=namespaces,
        script=script,
        load_seconds=load_seconds,
        bind=bind,
        jobs=jobs,
        brief=brief,
        ports=ports,
        connections=connections,
        nodes=nodes,
        capacity=capacity,
        heartbeat=heartbeat,
    )
    try:
        player.start()
        yield player
    finally:
        player.stop()
