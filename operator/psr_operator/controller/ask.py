"""Questions to pods over HTTP: how far a stage is, what a server serves. A pod that does not answer is no error.

Only pods whose owner chain ends in an object of ours are asked, by address and fixed port, without redirects, for two
seconds and a few KiB at most: whatever runs under our labels must not be able to send us anywhere or learn a key.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import aiohttp

from psr_operator.api import PolicyServer
from psr_operator.controller.apply import collection_of
from psr_operator.controller.cache import Cache
from psr_operator.controller.client import Client, Refused, Unreachable
from psr_operator.controller.facts import DeploymentFacts, JobFacts, PodFacts
from psr_operator.controller.observe import Heard, Told
from psr_operator.controller.queue import Queue

log = logging.getLogger(__name__)

SECONDS = 2.0
PROGRESS_BYTES = 4096
STATE_BYTES = 65536
PODS_A_ROUND = 16


@dataclass(frozen=True)
class Pace:
    """How often what is asked and told, in seconds.

    Attributes:
        round: between two rounds of progress.
        commit: between two progress figures of one Workload in a status.
        step: least change of progress that is worth a write, 0 to 1.
        server: between two questions to a server that is not ready.
        ready: between two questions to one that is.
    """

    round: float = 10.0
    commit: float = 30.0
    step: float = 0.01
    server: float = 2.0
    ready: float = 15.0


@dataclass
class _Share:
    """What one pod said of its share of a Workload."""

    fraction: float
    eta: float | None


@dataclass
class Asker:
    """Asks in two loops, and has the objects looked at for which an answer is new.

    Attributes:
        server_of: the PolicyServer of a uid with its wanted model, None where it is gone.
        tried: uids of the server pods that were asked, whether or not they answered.
    """

    client: Client
    cache: Cache
    queue: Queue
    clock: Callable[[], float]
    server_of: Callable[[str], PolicyServer | None]
    progress_port: int = 8090
    pace: Pace = field(default_factory=Pace)
    heard: dict[tuple[str, str], Heard] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    _shares: dict[str, _Share] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)
    _committed: dict[tuple[str, str], float] = field(default_factory=dict)
    _keys: dict[tuple[str, str], str] = field(default_factory=dict)
    _chains: dict[str, str] = field(default_factory=dict)

    def heard_of(self, uid: str) -> dict[str, Heard]:
        """Progress of the Workloads of an object, as far as it is to be told."""
        return {workload: heard for (owner, workload), heard in self.heard.items() if owner == uid}

    def ask_soon(self, uid: str) -> None:
        """A server's pod has changed, or its model: ask it at the next turn."""
        for pod in self.cache.pods.of(uid):
            self._asked.pop(pod.uid, None)

    def forget(self, uid: str) -> None:
        """A pod is gone."""
        for known in (self._shares, self._asked, self.told):
            known.pop(uid, None)
        self.tried.discard(uid)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=SECONDS), trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            await asyncio.gather(self._every(self.pace.round, self._progress, session), self._servers_loop(session))

    async def _every(self, seconds: float, what: Any, session: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(seconds)
            await what(session)

    # --- progress

    async def _progress(self, session: aiohttp.ClientSession) -> None:
        """One round: the running pods that were asked longest ago."""
        running = [
            (job, pod)
            for pod in self.cache.pods.by_uid.values()
            if not pod.server and pod.phase == "Running" and pod.ip and (job := self._job_of(pod)) is not None
        ]
        running.sort(key=lambda item: self._asked.get(item[1].uid, float("-inf")))
        chosen = running[:PODS_A_ROUND]
        await asyncio.gather(*(self._ask_progress(session, pod) for _, pod in chosen))
        for job in {job.uid: job for job, _ in chosen}.values():
            self._commit(job)

    def _job_of(self, pod: PodFacts) -> JobFacts | None:
        """The Job of a pod, where the chain pod → Job → our object holds."""
        job = self.cache.jobs.by_uid.get(pod.owner)
        if job is None or job.ended is not None or self.cache.key_of_uid(job.owner) is None:
            return None
        return job if job.owner == pod.belongs.uid else None

    async def _ask_progress(self, session: aiohttp.ClientSession, pod: PodFacts) -> None:
        self._asked[pod.uid] = self.clock()
        found = await _get(session, f"http://{_host(pod.ip)}:{self.progress_port}/progress", PROGRESS_BYTES)
        share = share_of(found)
        if share is not None:
            self._shares[pod.uid] = share

    def _commit(self, job: JobFacts) -> None:
        """Take what the pods said over into what is told, if it is time and worth a write."""
        pods = [pod for pod in self.cache.pods.of(job.owner) if pod.owner == job.uid]
        done = sum(1.0 for pod in pods if pod.phase == "Succeeded")
        shares = [self._shares[pod.uid] for pod in pods if pod.phase == "Running" and pod.uid in self._shares]
        if not shares:
            return
        progress = min(1.0, (done + sum(share.fraction for share in shares)) / job.completions)
        etas = [share.eta for share in shares if share.eta is not None]
        key, now = (job.owner, job.name), self.clock()
        before = self.heard.get(key)
        if before is not None and (
            now - self._committed[key] < self.pace.commit or abs(progress - before.progress) < self.pace.step
        ):
            return
        self.heard[key] = Heard(progress, max(etas) if etas else None)
        self._committed[key] = now
        owner = self.cache.key_of_uid(job.owner)
        if owner is not None:
            self.queue.add(owner)

    def forget_workload(self, owner: str, name: str) -> None:
        """A Job is gone."""
        self.heard.pop((owner, name), None)
        self._committed.pop((owner, name), None)

    # --- servers

    async def _servers_loop(self, session: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(min(self.pace.server, self.pace.ready) / 2)
            now = self.clock()
            due = []
            for deployment in list(self.cache.deployments.by_uid.values()):
                if deployment.replicas == 0 or deployment.deleting:
                    continue
                for pod in self.cache.pods.of(deployment.belongs.uid):
                    if not (pod.server and pod.phase == "Running" and pod.ip and not pod.deleting):
                        continue
                    told = self.told.get(pod.uid)
                    pause = self.pace.ready if told is not None and told.state == "Ready" else self.pace.server
                    if now - self._asked.get(pod.uid, float("-inf")) >= pause:
                        due.append((deployment, pod))
            await asyncio.gather(*(self._ask_server(session, deployment, pod) for deployment, pod in due))
            self.tried.update(pod.uid for _, pod in due)

    async def _ask_server(self, session: aiohttp.ClientSession, deployment: DeploymentFacts, pod: PodFacts) -> None:
        """Ask a server's pod what it serves, and order the wanted model where it is another."""
        self._asked[pod.uid] = self.clock()
        server = self.server_of(deployment.owner)
        if server is None or deployment.owner != pod.belongs.uid or not await self._belongs(deployment, pod):
            return
        key = await self._key(pod.belongs.namespace, deployment.name)
        if key is None:
            return
        base = f"http://{_host(pod.ip)}:{(server.spec.port or 8000) + 1}/psr"
        headers = {"Authorization": f"Bearer {key}"}
        told = told_of(await _get(session, f"{base}/state", STATE_BYTES, headers))
        wanted = server.spec.model_digest
        if told is not None and wanted is not None and told.digest not in (None, wanted):
            body = {"model": server.spec.model.to_json(), "digest": wanted}
            await _put(session, f"{base}/model", body, headers)
            told = Told("Fetching", wanted, None, f"exchanging the model for {server.spec.model.uri}")
            self._asked.pop(pod.uid, None)
        if told is not None and self.told.get(pod.uid) != told:
            self.told[pod.uid] = told
            owner = self.cache.key_of_uid(deployment.owner)
            if owner is not None:
                self.queue.add(owner)

    async def _belongs(self, deployment: DeploymentFacts, pod: PodFacts) -> bool:
        """Whether the chain pod → ReplicaSet → Deployment holds."""
        if pod.owner == deployment.uid:
            return True
        if pod.owner not in self._chains:
            try:
                found = await self.client.get(f"{collection_of('ReplicaSet', pod.belongs.namespace)}/{pod.owner_name}")
            except (Refused, Unreachable) as error:
                log.warning("%s: %s", pod.name, error)
                return False
            if found is None or found["metadata"]["uid"] != pod.owner:
                return False
            owners = found["metadata"].get("ownerReferences") or ()
            self._chains[pod.owner] = next((item["uid"] for item in owners if item.get("controller")), "")
        return self._chains[pod.owner] == deployment.uid

    async def _key(self, namespace: str, server: str) -> str | None:
        """The bearer key of a server, from its Secret."""
        if (namespace, server) not in self._keys:
            try:
                found = await self.client.get(f"{collection_of('Secret', namespace)}/{server}-key")
            except (Refused, Unreachable) as error:
                log.warning("the key of %s/%s cannot be read: %s", namespace, server, error)
                return None
            if found is None:
                return None
            self._keys[(namespace, server)] = base64.b64decode(found["data"]["key"]).decode()
        return self._keys[(namespace, server)]

    def forget_server(self, namespace: str, name: str) -> None:
        """A server's Deployment is gone, and its key with it."""
        self._keys.pop((namespace, name), None)


def share_of(found: Any) -> _Share | None:
    """What `/progress` says, checked strictly; None where it says nothing usable."""
    if not isinstance(found, dict):
        return None
    done, total, eta = found.get("done"), found.get("total"), found.get("eta")
    if not _number(done) or not _number(total) or total <= 0 or done < 0:
        return None
    return _Share(min(1.0, done / total), float(eta) if _number(eta) and 0 <= eta < 1e9 else None)


def told_of(found: Any) -> Told | None:
    """What `/psr/state` says, checked strictly; None where it says nothing usable."""
    if not isinstance(found, dict) or not isinstance(found.get("state"), str):
        return None
    texts = {name: found.get(name) for name in ("digest", "served", "message")}
    if any(value is not None and not isinstance(value, str) for value in texts.values()):
        return None
    return Told(found["state"][:40], texts["digest"], texts["served"], (texts["message"] or "")[:600])


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
