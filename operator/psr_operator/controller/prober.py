"""Questions to pods over HTTP: how far a stage is, what a server serves. A pod that does not answer is no error.

Only pods whose owner chain ends in an object of ours are asked, by address and fixed port, without redirects, for two
seconds and a few KiB at most: whatever runs under our labels must not be able to send us anywhere or learn a key.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from psr_operator.api import PolicyServer
from psr_operator.backends.base import PodFacts, WorkloadFacts
from psr_operator.controller.client import Client, Refused, Unreachable
from psr_operator.controller.facts import DeploymentFacts
from psr_operator.controller.paths import object_path
from psr_operator.controller.store import Store
from psr_operator.controller.workqueue import WorkQueue
from psr_runtime.config import ModelOrder
from psr_runtime.protocol import (
    API_PORT,
    MODEL_PATH,
    PROGRESS_PATH,
    PROGRESS_PORT,
    SECRET_KEY,
    STATE_PATH,
    ProgressReport,
    ServerPhase,
    ServerReport,
    control_port,
    key_secret_name,
)

log = logging.getLogger(__name__)

SECONDS = 2.0
PROGRESS_BYTES = 4096
STATE_BYTES = 65536
PODS_PER_ROUND = 16


@dataclass(frozen=True)
class Intervals:
    """How often pods are asked and progress is written, in seconds.

    Attributes:
        round: between two rounds of progress.
        publish: between two progress figures of one Workload in a status.
        least: change of progress that is worth a write, 0 to 1.
        server: between two questions to a server that is not ready.
        ready: between two questions to one that is.
        unreachable: without an answer of a server's pod that runs, after which it is called unreachable.
    """

    round: float = 10.0
    publish: float = 30.0
    least: float = 0.01
    server: float = 2.0
    ready: float = 15.0
    unreachable: float = 60.0


@dataclass
class Prober:
    """Asks in two loops, and has the objects reconciled for which an answer is new.

    Attributes:
        server_of: the PolicyServer of a uid with its wanted model, None where it is gone.
        progress: of Workloads as it is published, by uid of the owner and name.
        reports: of servers' pods, by uid of the pod.
        tried: uids of the server pods that were asked, whether or not they answered.
        unreachable: uids of those that have not answered for long although they run.
    """

    client: Client
    store: Store
    queue: WorkQueue
    clock: Callable[[], float]
    server_of: Callable[[str], PolicyServer | None]
    progress_port: int = PROGRESS_PORT
    intervals: Intervals = field(default_factory=Intervals)
    progress: dict[tuple[str, str], ProgressReport] = field(default_factory=dict)
    reports: dict[str, ServerReport] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    unreachable: set[str] = field(default_factory=set)
    _mute: dict[str, float] = field(default_factory=dict)
    _pods: dict[str, ProgressReport] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)
    _published: dict[tuple[str, str], float] = field(default_factory=dict)
    _keys: dict[tuple[str, str], str] = field(default_factory=dict)
    _chains: dict[str, str] = field(default_factory=dict)
    _spoilt: set[str] = field(default_factory=set)

    def progress_of(self, uid: str) -> dict[str, ProgressReport]:
        """Progress of the Workloads of an object, as it is published."""
        return {workload: report for (owner, workload), report in self.progress.items() if owner == uid}

    def ask_soon(self, uid: str) -> None:
        """A server's pod has changed, or its model: ask it at the next turn."""
        for pod in self.store.pods.of(uid):
            self._asked.pop(pod.uid, None)

    def forget_pod(self, uid: str) -> None:
        """A pod is gone."""
        self._pods.pop(uid, None)
        self._asked.pop(uid, None)
        self.reports.pop(uid, None)
        self.tried.discard(uid)
        self._spoilt.discard(uid)
        self.unreachable.discard(uid)
        self._mute.pop(uid, None)

    def forget_workload(self, owner: str, name: str) -> None:
        """A Workload's object is gone."""
        self.progress.pop((owner, name), None)
        self._published.pop((owner, name), None)

    def forget_server(self, namespace: str, name: str) -> None:
        """A server's Deployment is gone, and its key with it."""
        self._keys.pop((namespace, name), None)

    def key_of(self, namespace: str, server: str) -> str | None:
        """The bearer key of a server, where it was read."""
        return self._keys.get((namespace, server))

    async def run(self) -> None:
        """Ask until cancelled."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=SECONDS), trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            intervals = self.intervals
            await asyncio.gather(
                _every(intervals.round, self._ask_workloads, session),
                _every(min(intervals.server, intervals.ready) / 2, self._ask_servers, session),
            )

    # --- progress

    async def _ask_workloads(self, session: aiohttp.ClientSession) -> None:
        """One round: the running pods that were asked longest ago."""
        running = [
            (facts, pod)
            for pod in self.store.pods.by_uid.values()
            if not pod.server and pod.phase == "Running" and pod.ip and (facts := self._workload_of(pod)) is not None
        ]
        running.sort(key=lambda item: self._asked.get(item[1].uid, float("-inf")))
        chosen = running[:PODS_PER_ROUND]
        await asyncio.gather(*(self._alone(self._ask_workload(session, pod), pod) for _, pod in chosen))
        for facts in {facts.uid: facts for facts, _ in chosen}.values():
            self._publish(facts)

    async def _alone(self, question: Awaitable[None], pod: PodFacts) -> None:
        """Ask one pod. What goes wrong with it (a key that somebody has spoilt) is said once and stops no other."""
        try:
            await question
        except Exception as error:
            if pod.uid not in self._spoilt:
                self._spoilt.add(pod.uid)
                log.warning("%s/%s cannot be asked: %r", pod.labels.namespace, pod.name, error)

    def _workload_of(self, pod: PodFacts) -> WorkloadFacts | None:
        """The unfinished Workload of a pod, where the chain from the pod to our object holds."""
        facts = self.store.workload_of(pod)
        if facts is None or facts.ended or self.store.key_of_uid(facts.owner) is None:
            return None
        return facts

    async def _ask_workload(self, session: aiohttp.ClientSession, pod: PodFacts) -> None:
        self._asked[pod.uid] = self.clock()
        url = f"http://{_host(pod.ip)}:{self.progress_port}{PROGRESS_PATH}"
        report = ProgressReport.read(await _get(session, url, PROGRESS_BYTES))
        if report is not None:
            self._pods[pod.uid] = report

    def _publish(self, facts: WorkloadFacts) -> None:
        """Take what the pods said into the published progress, if it is time and worth a write."""
        pods = [pod for pod in self.store.pods.of(facts.owner) if self.store.workload_of(pod) is facts]
        done = sum(1.0 for pod in pods if pod.phase == "Succeeded")
        reports = [self._pods[pod.uid] for pod in pods if pod.phase == "Running" and pod.uid in self._pods]
        if not reports:
            return
        fraction = min(1.0, (done + sum(report.fraction for report in reports)) / facts.pods)
        etas = [report.eta for report in reports if report.eta is not None]
        key, now = (facts.owner, facts.name), self.clock()
        before = self.progress.get(key)
        if before is not None and (
            now - self._published[key] < self.intervals.publish
            or abs(fraction - before.fraction) < self.intervals.least
        ):
            return
        self.progress[key] = ProgressReport(fraction, max(etas) if etas else None)
        self._published[key] = now
        self._reconcile(facts.owner)

    # --- servers

    async def _ask_servers(self, session: aiohttp.ClientSession) -> None:
        """One round: every server's pod whose interval is over."""
        now = self.clock()
        chosen = []
        for deployment in list(self.store.deployments.by_uid.values()):
            if deployment.replicas == 0 or deployment.deleting:
                continue
            for pod in self.store.pods.of(deployment.labels.uid):
                if not (pod.server and pod.phase == "Running" and pod.ip and not pod.deleting):
                    continue
                report = self.reports.get(pod.uid)
                ready = report is not None and report.phase == ServerPhase.READY
                interval = self.intervals.ready if ready else self.intervals.server
                if now - self._asked.get(pod.uid, float("-inf")) >= interval:
                    chosen.append((deployment, pod))
        await asyncio.gather(
            *(self._alone(self._ask_server(session, deployment, pod), pod) for deployment, pod in chosen)
        )
        self.tried.update(pod.uid for _, pod in chosen)

    async def _ask_server(self, session: aiohttp.ClientSession, deployment: DeploymentFacts, pod: PodFacts) -> None:
        """Ask a server's pod what it serves, and order the wanted model where it is another."""
        self._asked[pod.uid] = self.clock()
        server = self.server_of(deployment.owner)
        if server is None or deployment.owner != pod.labels.uid or not await self._is_pod_of(deployment, pod):
            return
        key = await self._key(pod.labels.namespace, deployment.name)
        if key is None:
            return
        base = f"http://{_host(pod.ip)}:{control_port(server.spec.port or API_PORT)}"
        headers = {"Authorization": f"Bearer {key}"}
        report = ServerReport.read(await _get(session, f"{base}{STATE_PATH}", STATE_BYTES, headers))
        self._note_silence(pod, deployment.owner, answered=report is not None)
        wanted = server.spec.model_digest
        if report is not None and wanted is not None and report.digest not in (None, wanted):
            order = ModelOrder.model_construct(model=server.spec.model, digest=wanted)  # the server checks it
            await _put(session, f"{base}{MODEL_PATH}", order.to_json(), headers)
            message = f"exchanging the model for {server.spec.model.uri}"
            report = ServerReport(ServerPhase.FETCHING, wanted, None, message)
            self._asked.pop(pod.uid, None)
        if report is not None and self.reports.get(pod.uid) != report:
            self.reports[pod.uid] = report
            self._reconcile(deployment.owner)

    def _note_silence(self, pod: PodFacts, owner: str, *, answered: bool) -> None:
        """Whether a pod answered; one that does not for long is called unreachable, and its server reconciled."""
        now = self.clock()
        if answered or pod.looping:
            self._mute.pop(pod.uid, None)
            if pod.uid in self.unreachable:
                self.unreachable.discard(pod.uid)
                self._reconcile(owner)
            return
        silence = now - self._mute.setdefault(pod.uid, now)
        if silence >= self.intervals.unreachable and pod.uid not in self.unreachable:
            self.unreachable.add(pod.uid)
            self._reconcile(owner)

    async def _is_pod_of(self, deployment: DeploymentFacts, pod: PodFacts) -> bool:
        """Whether the chain pod → ReplicaSet → Deployment holds."""
        if pod.owner == deployment.uid:
            return True
        if pod.owner not in self._chains:
            try:
                raw = await self.client.get(object_path("ReplicaSet", pod.labels.namespace, pod.owner_name))
            except (Refused, Unreachable) as error:
                log.warning("%s: %s", pod.name, error)
                return False
            if raw is None or raw["metadata"]["uid"] != pod.owner:
                return False
            owners = raw["metadata"].get("ownerReferences") or ()
            self._chains[pod.owner] = next((item["uid"] for item in owners if item.get("controller")), "")
        return self._chains[pod.owner] == deployment.uid

    async def _key(self, namespace: str, server: str) -> str | None:
        """The bearer key of a server, from its Secret."""
        if (namespace, server) not in self._keys:
            try:
                secret = await self.client.get(object_path("Secret", namespace, key_secret_name(server)))
            except (Refused, Unreachable) as error:
                log.warning("the key of %s/%s cannot be read: %s", namespace, server, error)
                return None
            if secret is None:
                return None
            self._keys[(namespace, server)] = base64.b64decode(secret["data"][SECRET_KEY]).decode()
        return self._keys[(namespace, server)]

    def _reconcile(self, uid: str) -> None:
        """An answer is new for the object of this uid."""
        key = self.store.key_of_uid(uid)
        if key is not None:
            self.queue.add(key)


async def _every(
    seconds: float, ask: Callable[[aiohttp.ClientSession], Awaitable[None]], session: aiohttp.ClientSession
) -> None:
    while True:
        await asyncio.sleep(seconds)
        await ask(session)


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


async def _get(session: aiohttp.ClientSession, url: str, limit: int, headers: dict[str, str] | None = None) -> Any:
    """JSON of a pod, None where it gives none."""
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as answer:
            text = await answer.content.read(limit + 1) if answer.status == 200 else b""
            while answer.status == 200 and len(text) <= limit and not answer.content.at_eof():
                text += await answer.content.read(limit + 1 - len(text))
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    if not text or len(text) > limit:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


async def _put(session: aiohttp.ClientSession, url: str, body: Any, headers: dict[str, str]) -> None:
    try:
        async with session.put(url, json=body, headers=headers, allow_redirects=False):
            pass
    except (aiohttp.ClientError, TimeoutError, OSError):
        return
