"""Plays the Job and Deployment controllers, for clusters that run no kube-controller-manager.

What it writes the apiserver validates. Not played: parallelism below completions, queues, rolling updates at a pace,
ReplicaSets (a Deployment owns its pods), the removal of finished Jobs. Pods of deleted owners are removed as the
garbage collector would.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.control_plane.pod_life import INDEX, MERGE
from harness.control_plane.pod_status import now

if TYPE_CHECKING:
    from harness.control_plane.player import Player

Object = dict[str, Any]
HASH = "pod-template-hash"


@dataclass
class Owner:
    """A Job or Deployment with its pods, by uid."""

    item: Object
    pods: dict[str, Object] = field(default_factory=dict)
    created: set[str] = field(default_factory=set)
    started: str = ""
    dirty: bool = False
    task: asyncio.Task[None] | None = None
    gone: bool = False


class Controllers:
    """Turns Jobs and Deployments into pods of the player's node and keeps their status."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._owners: dict[str, Owner] = {}
        self._orphans: dict[str, dict[str, Object]] = {}

    # --- what is told ------------------------------------------------------------------------------------------

    def job(self, kind: str, item: Object) -> None:
        self._seen(kind, item, self._sync_job)

    def deployment(self, kind: str, item: Object) -> None:
        self._seen(kind, item, self._sync_deployment)

    def pod(self, kind: str, pod: Object) -> None:
        owner = _controller(pod)
        if owner is None or owner["kind"] not in ("Job", "Deployment"):
            return
        known = self._owners.get(owner["uid"])
        pods = known.pods if known is not None else self._orphans.setdefault(owner["uid"], {})
        if kind == "DELETED":
            pods.pop(pod["metadata"]["uid"], None)
            if known is not None:
                known.created.discard(_slot(pod))
        else:
            pods[pod["metadata"]["uid"]] = pod
        if known is not None:
            self._mark(known, self._sync_job if owner["kind"] == "Job" else self._sync_deployment)

    def _seen(self, kind: str, item: Object, sync: Callable[[Owner], Any]) -> None:
        if not self._player.plays(item):
            return
        uid = item["metadata"]["uid"]
        owner = self._owners.get(uid)
        if owner is None:
            self._owners[uid] = owner = Owner(item, self._orphans.pop(uid, {}))
        if _version(item) > _version(owner.item):  # what was written is known before it is told
            owner.item = item
        if kind == "DELETED":
            owner.gone = True
            del self._owners[uid]
            self._player.spawn(self._delete(owner.pods.values()))
            return
        self._mark(owner, sync)

    def _mark(self, owner: Owner, sync: Callable[[Owner], Any]) -> None:
        """Look at an owner, one look at a time."""
        owner.dirty = True
        if owner.task is None or owner.task.done():
            owner.task = self._player.spawn(self._look(owner, sync))

    async def _look(self, owner: Owner, sync: Callable[[Owner], Any]) -> None:
        while owner.dirty and not owner.gone:
            owner.dirty = False
            await sync(owner)

    # --- Jobs --------------------------------------------------------------------------------------------------

    async def _sync_job(self, owner: Owner) -> None:
        job, pods = owner.item, list(owner.pods.values())
        status = job.get("status", {})
        true = {item["type"]: item for item in status.get("conditions", []) if item["status"] == "True"}
        live = [pod for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]
        if "deletionTimestamp" in job["metadata"]:
            await self._finalize(owner)
        elif "Complete" in true or "Failed" in true:
            return
        elif job["spec"].get("suspend"):
            await self._delete(live)
            await self._suspended(owner)
        elif "FailureTarget" in true:
            await self._fail(owner, true["FailureTarget"]["reason"], true["FailureTarget"]["message"], live)
        elif "startTime" not in status and not (owner.started and self._player.brief):
            await self._start(owner)
        elif (why := self._why_failed(job, pods)) is not None:
            await self._fail(owner, *why, live)
        else:
            await self._go_on(owner, live)

    async def _start(self, owner: Owner) -> None:
        count = _completions(owner.item)
        owner.started = now()
        await asyncio.gather(*(self._job_pod(owner, index) for index in range(count)))
        if not self._player.brief:
            begun = {"startTime": owner.started, "active": count, "ready": 0, "uncountedTerminatedPods": {}}
            await self._job_status(owner, begun, {"Suspended": None})

    async def _go_on(self, owner: Owner, live: list[Object]) -> None:
        """Replace failed pods that count for nothing or may be retried; finish once every index has succeeded."""
        job, pods = owner.item, list(owner.pods.values())
        count = _completions(job)
        done = {_index(pod) for pod in pods if pod["status"].get("phase") == "Succeeded"}
        status = job.get("status", {})
        if len(done) < count or live:
            present = {_index(pod) for pod in live} | done
            # A pod that was made and is not told of yet is present.
            present |= {int(name.split("/")[0]) for name in owner.created - {_slot(pod) for pod in pods}}
            missing = [index for index in range(count) if index not in present]
            await asyncio.gather(*(self._job_pod(owner, index) for index in missing))
            if len(done) != status.get("succeeded", 0) and not self._player.brief:
                await self._job_status(owner, {"active": count - len(done), "succeeded": len(done)})
            return
        indexed = {"completedIndexes": _ranges(done)} if job["spec"].get("completionMode") == "Indexed" else {}
        end = {**self._begun(owner), "completionTime": now(), "active": 0, "ready": 0, "succeeded": count, **indexed}
        reached = ("CompletionsReached", "Reached expected number of succeeded pods")
        await self._job_status(owner, end, {"SuccessCriteriaMet": reached, "Complete": reached})

    def _why_failed(self, job: Object, pods: list[Object]) -> tuple[str, str] | None:
        spec = job["spec"]
        counted: dict[int, int] = {}
        for pod in pods:
            if pod["status"].get("phase") != "Failed":
                continue
            rule = _matching_rule(spec.get("podFailurePolicy", {}).get("rules", []), pod)
            if rule is not None and rule[1] == "FailJob":
                name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                return "PodFailurePolicy", f"{_what(pod, name)} matching FailJob rule at index {rule[0]}"
            if rule is None or rule[1] == "Count":
                counted[_index(pod)] = counted.get(_index(pod), 0) + 1
        per_index = spec.get("backoffLimitPerIndex")
        if per_index is not None:
            failed = [index for index, count in counted.items() if count > per_index]
            if len(failed) > spec.get("maxFailedIndexes", 0):
                return "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes"
        elif sum(counted.values()) > spec.get("backoffLimit", 6):
            return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        return None

    async def _fail(self, owner: Owner, reason: str, message: str, live: list[Object]) -> None:
        """First the target, then, once no pod is left that runs, the end."""
        failed = sum(pod["status"].get("phase") == "Failed" for pod in owner.pods.values())
        counts = {**self._begun(owner), "active": len(live), "ready": 0, "failed": failed}
        conditions: dict[str, Any] = {"FailureTarget": (reason, message)}
        if not live:
            conditions["Failed"] = (reason, message)
        known = {item["type"] for item in owner.item.get("status", {}).get("conditions", [])}
        if set(conditions) - known:
            await self._job_status(owner, counts, conditions)
        await self._delete(live)

    async def _suspended(self, owner: Owner) -> None:
        known = {item["type"] for item in owner.item.get("status", {}).get("conditions", [])}
        if "Suspended" not in known:
            owner.created.clear()
            why = ("JobSuspended", "Job suspended")
            await self._job_status(owner, {"active": 0, "startTime": None}, {"Suspended": why})

    def _begun(self, owner: Owner) -> Object:
        """What a finished Job needs and a brief player has not written yet."""
        if "startTime" in owner.item.get("status", {}):
            return {}
        return {"startTime": owner.started or now(), "uncountedTerminatedPods": {}}

    async def _job_pod(self, owner: Owner, index: int) -> None:
        number = sum(slot.startswith(f"{index}/") for slot in owner.created)
        owner.created.add(f"{index}/{number}")
        name = f"{owner.item['metadata']['name'][:50]}-{index}-{secrets.token_hex(3)}"
        extra = {INDEX: str(index), "psr.dev/slot": f"{index}/{number}"}
        labels = {INDEX: str(index)} if owner.item["spec"].get("completionMode") == "Indexed" else {}
        await self._make_pod(owner, name, labels, extra)

    async def _job_status(self, owner: Owner, fields: Object, conditions: dict[str, Any] | None = None) -> None:
        """Change fields of a Job's status; conditions by type: reason and message, or None for one that is to go."""
        conditions_before = {item["type"]: item for item in owner.item.get("status", {}).get("conditions", [])}
        for kind, why in (conditions or {}).items():
            conditions_before.pop(kind, None)
            if why is not None:
                conditions_before[kind] = _condition(kind, True, *why, since="lastProbeTime")
        await self._status(owner, {**fields, "conditions": list(conditions_before.values())})

    # --- Deployments -------------------------------------------------------------------------------------------

    async def _sync_deployment(self, owner: Owner) -> None:
        item = owner.item
        if "deletionTimestamp" in item["metadata"]:
            await self._finalize(owner)
            return
        spec, pods = item["spec"], list(owner.pods.values())
        template = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
        staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        current = [pod for pod in staying if pod["metadata"]["labels"].get(HASH) == template]
        old = [pod for pod in staying if pod not in current]
        owner.created -= {pod["metadata"]["name"] for pod in pods}
        wanted = spec.get("replicas", 1)
        await self._delete([*old, *current[wanted:]])
        recreate = spec.get("strategy", {}).get("type") == "Recreate"
        if not (recreate and len(pods) > len(current)):
            await asyncio.gather(
                *(self._deployment_pod(owner, template) for _ in range(wanted - len(current) - len(owner.created)))
            )
        ready = sum(_is_ready(pod) for pod in current[:wanted])
        fields = {
            "observedGeneration": item["metadata"]["generation"],
            "replicas": len(staying),
            "updatedReplicas": len(current),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, wanted - ready),
        }
        stored = item.get("status", {})
        if any(stored.get(key, 0) != value for key, value in fields.items()):
            available = _condition("Available", ready >= wanted, "Played", "", since="lastUpdateTime")
            await self._status(owner, {**fields, "conditions": [available]})

    async def _deployment_pod(self, owner: Owner, template: str) -> None:
        name = f"{owner.item['metadata']['name'][:50]}-{template[:5]}-{secrets.token_hex(3)}"
        owner.created.add(name)
        await self._make_pod(owner, name, {HASH: template}, {})

    # --- both --------------------------------------------------------------------------------------------------

    async def _make_pod(self, owner: Owner, name: str, labels: Object, annotations: Object) -> None:
        item, template = owner.item, owner.item["spec"]["template"]
        meta = template.get("metadata", {})
        reference = {
            "apiVersion": item["apiVersion"],
            "kind": item["kind"],
            "name": item["metadata"]["name"],
            "uid": item["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        pod = {
            "metadata": {
                "name": name,
                "labels": {**meta.get("labels", {}), **labels},
                "annotations": {**meta.get("annotations", {}), **annotations},
                "ownerReferences": [reference],
            },
            "spec": {**template["spec"], "nodeName": self._player.node},
        }
        await self._player.write("POST", f"/api/v1/namespaces/{item['metadata']['namespace']}/pods", pod)

    async def _finalize(self, owner: Owner) -> None:
        """An owner that is deleted with `Foreground` goes after its pods."""
        item = owner.item
        if owner.pods:
            await self._delete(owner.pods.values())
        elif "foregroundDeletion" in item["metadata"].get("finalizers", []):
            rest = [name for name in item["metadata"]["finalizers"] if name != "foregroundDeletion"]
            body = {"metadata": {"uid": item["metadata"]["uid"], "finalizers": rest}}
            await self._player.write("PATCH", _path(item), body, MERGE)

    async def _delete(self, pods: Iterable[Object]) -> None:
        going = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        await asyncio.gather(*(self._player.write("DELETE", _path(pod)) for pod in going))

    async def _status(self, owner: Owner, status: Object) -> None:
        item = owner.item
        body = {"metadata": {"uid": item["metadata"]["uid"]}, "status": status}
        stored = await self._player.write("PATCH", f"{_path(item)}/status", body, MERGE)
        if stored is not None and not owner.gone:
            owner.item = {**stored, "apiVersion": item["apiVersion"], "kind": item["kind"]}


def _path(item: Object) -> str:
    meta = item["metadata"]
    rooms = {"Job": ("/apis/batch/v1", "jobs"), "Deployment": ("/apis/apps/v1", "deployments")}
    group, kind = rooms.get(item.get("kind", ""), ("/api/v1", "pods"))
    return f"{group}/namespaces/{meta['namespace']}/{kind}/{meta['name']}"


def _condition(kind: str, status: bool, reason: str, message: str, *, since: str) -> Object:
    """A condition; `since`: what this kind calls its second time."""
    condition = {"type": kind, "status": str(status), "reason": reason, "message": message}
    return {**condition, since: now(), "lastTransitionTime": now()}


def _version(item: Object) -> int:
    return int(item["metadata"]["resourceVersion"])


def _controller(pod: Object) -> Object | None:
    return next((item for item in pod["metadata"].get("ownerReferences", []) if item.get("controller")), None)


def _completions(job: Object) -> int:
    return int(job["spec"].get("completions") or job["spec"].get("parallelism") or 1)


def _index(pod: Object) -> int:
    return int(pod["metadata"].get("annotations", {}).get(INDEX, 0))


def _slot(pod: Object) -> str:
    return str(pod["metadata"].get("annotations", {}).get("psr.dev/slot", ""))


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any((item["type"], item["status"]) == ("Ready", "True") for item in conditions)


def _matching_rule(rules: list[Object], pod: Object) -> tuple[int, str] | None:
    """Index and action of the first rule of a podFailurePolicy that a failed pod matches."""
    codes = [
        item["state"]["terminated"]["exitCode"]
        for item in pod["status"].get("containerStatuses", [])
        if item["state"].get("terminated", {}).get("exitCode")
    ]
    conditions = {(item["type"], item["status"]) for item in pod["status"].get("conditions", [])}
    for number, rule in enumerate(rules):
        on = rule.get("onExitCodes")
        if on is not None and any((code in on["values"]) == (on["operator"] == "In") for code in codes):
            return number, rule["action"]
        if any((item["type"], item["status"]) in conditions for item in rule.get("onPodConditions") or []):
            return number, rule["action"]
    return None


def _what(pod: Object, name: str) -> str:
    for item in pod["status"].get("containerStatuses", []):
        code = item["state"].get("terminated", {}).get("exitCode")
        if code:
            return f"Container {item['name']} for pod {name} failed with exit code {code}"
    return f"Pod {name} has condition DisruptionTarget"


def _ranges(numbers: set[int]) -> str:
    """`0-2,4`."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
