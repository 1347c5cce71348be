"""What is seen while hundreds of runs are rehearsed, and what must not be: the checks of `scale.py`.

Pure but for the reading of the audit log: a watch tells, the lists of the end are given.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psr_operator.api import KINDS
from psr_operator.render import LABEL_ATTEMPT, LABEL_SERVER, LABEL_STAGE, LABEL_UID

RUN = "rehearsal/run"
"""Label of a run, which everything that is made for it carries on."""
REPORTER = "psr-operator"
CHECKS = {
    "ready": "every run is Ready in time",
    "stalled": "nothing is Stalled",
    "attempts": "no attempt is repeated and none is made twice",
    "gpus": "no pod of a run's server holds GPUs beside one of its trainings",
    "process": "the operator runs from beginning to end and holds its Lease all the time",
    "log": "the operator's log holds no error",
    "events": "the operator reports no Warning",
    "refused": "the apiserver refuses no write but for a conflict or an object that has gone",
    "orphans": "everything has an owner, and goes with it",
    "rehearsal": "the simulation itself went well",
}

Object = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much is rehearsed.

    Attributes:
        nodes: with 8 GPUs each.
        pace: factor of the delays of pods.
        limit: seconds until all runs must be Ready.
        lease: seconds of the operator's Lease.
    """

    runs: int = 200
    iterations: int = 4
    nodes: int = 100
    pace: float = 1.0
    limit: float = 1800.0
    lease: float = 30.0

    @property
    def jobs(self) -> int:
        """A run: sft; search, merge and training a round; an evaluation of each model; the report."""
        return self.runs * (1 + 3 * self.iterations + (self.iterations + 1) + 1)

    @property
    def stage_pods(self) -> int:
        """A search has two shards, everything else one pod."""
        return self.jobs + self.runs * self.iterations

    @property
    def server_pods(self) -> int:
        """The server comes anew for every model: each training has its GPUs meanwhile."""
        return self.runs * (self.iterations + 1)


@dataclass
class Witness:
    """Watches pods, Jobs and runs, and says what must not be.

    Attributes:
        faults: by the key of `CHECKS`.
        pods: made, `server` or by stage. jobs: made, by stage.
        most_pending: pods that waited for a node or for their start at the same time.
        ready, settled: names of the runs that are Ready; that are Ready or Stalled.
        models: made by each run, M1 included.
    """

    faults: dict[str, list[str]] = field(default_factory=lambda: {key: [] for key in CHECKS})
    pods: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    most_pending: int = 0
    ready: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    models: dict[str, int] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    _known: set[str] = field(default_factory=set)
    _pending: set[str] = field(default_factory=set)
    _holders: dict[tuple[str, bool], dict[str, str]] = field(default_factory=dict)

    def pod(self, kind: str, pod: Object) -> None:
        """A pod as a watch tells it. It holds its GPUs from its binding to its end."""
        meta, phase = pod["metadata"], pod.get("status", {}).get("phase", "Pending")
        uid, serves = meta["uid"], LABEL_SERVER in meta["labels"]
        if uid not in self._known:
            self._known.add(uid)
            self.pods["server" if serves else meta["labels"][LABEL_STAGE]] += 1
        live = kind != "DELETED" and phase not in ("Succeeded", "Failed")
        _put(self.live, uid, live)
        _put(self._pending, uid, live and phase == "Pending")
        self.most_pending = max(self.most_pending, len(self._pending))
        if phase == "Failed":
            self.faults["attempts"].append(f"pod {meta['name']} failed")
        if not _gpus(pod):
            return
        mine = self._holders.setdefault((meta["labels"][RUN], serves), {})
        others = self._holders.get((meta["labels"][RUN], not serves), {})
        if not (live and pod["spec"].get("nodeName")):
            mine.pop(uid, None)
        elif uid not in mine:
            mine[uid] = meta["name"]
            self.faults["gpus"] += [f"{meta['name']} was bound beside {other}" for other in others.values()]

    def job(self, kind: str, job: Object) -> None:
        """A Job as a watch tells it."""
        meta = job["metadata"]
        if meta["uid"] in self._known:
            return
        self._known.add(meta["uid"])
        self.jobs[meta["labels"][LABEL_STAGE]] += 1
        if meta["labels"][LABEL_ATTEMPT] != "1":
            self.faults["attempts"].append(f"Job {meta['name']} is attempt {meta['labels'][LABEL_ATTEMPT]}")

    def run(self, kind: str, item: Object) -> None:
        """A run as a watch tells it."""
        name, status = item["metadata"]["name"], item.get("status", {})
        self.models[name] = len(status.get("models", ()))
        _put(self.ready, name, condition(item, "Ready").get("status") == "True")
        _put(self.settled, name, name in self.ready or condition(item, "Stalled").get("status") == "True")

    def count(self, scale: Scale) -> None:
        """Compare what was made with what the runs need."""
        servers = self.pods["server"]
        for what, count, wanted in (
            ("Jobs", self.jobs.total(), scale.jobs),
            ("pods of stages", self.pods.total() - servers, scale.stage_pods),
            ("pods of servers", servers, scale.server_pods),
        ):
            if count != wanted:
                self.faults["attempts"].append(f"{count} {what} were made instead of {wanted}")


def status_faults(objects: Iterable[Object]) -> dict[str, list[str]]:
    """What the operator's objects say of themselves, once all is done: nothing failed, nothing was repeated."""
    faults: dict[str, list[str]] = {"stalled": [], "attempts": []}
    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        stalled = condition(item, "Stalled")
        if stalled.get("status") == "True":
            faults["stalled"].append(f"{name}: {stalled.get('reason')}: {stalled.get('message')}")
        for step, attempts in item.get("status", {}).get("attempts", {}).items():
            if attempts.get("attempt", 0) > 1:
                faults["attempts"].append(f"{name}: {step} came to attempt {attempts['attempt']}")
    return faults


def orphans(objects: Sequence[Object]) -> list[str]:
    """What belongs to nobody: an object of ours whose owner is not there, or that has none and is no run."""
    known = {item["metadata"]["uid"] for item in objects}
    lines = []
    for item in objects:
        meta = item["metadata"]
        owners = meta.get("ownerReferences", ())
        ours = item["kind"] in KINDS or LABEL_UID in meta.get("labels", {})
        gone = [owner for owner in owners if owner["uid"] not in known]
        if gone:
            lines.append(f"{item['kind']}/{meta['name']}: {gone[0]['kind']}/{gone[0]['name']} is not there")
        elif ours and not owners and item["kind"] != "SelfRewardRun":
            lines.append(f"{item['kind']}/{meta['name']} has no owner")
    return lines


def log_faults(text: str) -> list[str]:
    """Errors in an operator's log, a line each."""
    return [line for line in text.splitlines() if re.search(r"\b(ERROR|CRITICAL)\b|^Traceback", line)]


def refusals(folder: Path, user: str) -> Counter[str]:
    """Writes of a user that the apiserver refused, as `409 patch jobs/status`, from the audit logs in a folder."""
    refused: Counter[str] = Counter()
    for log in sorted(folder.glob("audit*.log")):
        with open(log, encoding="utf-8") as lines:
            for line in lines:
                if user not in line or '"code":2' in line:
                    continue
                event = json.loads(line)
                code, verb, about = event.get("responseStatus", {}).get("code", 0), event["verb"], event["objectRef"]
                if event["user"]["username"] == user and code >= 400 and verb not in ("get", "list", "watch"):
                    kind = "/".join(part for part in (about.get("resource"), about.get("subresource")) if part)
                    refused[f"{code} {verb} {kind}"] += 1
    return refused


def condition(item: Object, kind: str) -> Object:
    """A condition of an object; empty where it has none of that type."""
    conditions = item.get("status", {}).get("conditions", ())
    return next((item for item in conditions if item["type"] == kind), {})


def _gpus(pod: Object) -> bool:
    limits = (item.get("resources", {}).get("limits", {}) for item in pod["spec"]["containers"])
    return any(int(item.get("nvidia.com/gpu", 0)) > 0 for item in limits)


def _put(where: set[str], uid: str, inside: bool) -> None:
    where.add(uid) if inside else where.discard(uid)
