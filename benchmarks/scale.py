"""A rehearsal: the operator's real process with hundreds of runs, on a real control plane with simulated nodes.

    make bench-scale                                         200 runs of 4 iterations, out/bench/scale.json
    python -m benchmarks.scale --runs 5 --iterations 2       a small one, to see that it works

Scheduler and controllers are real and KWOK plays the nodes, so what is rehearsed is everything but containers: Jobs,
Deployments, bindings, releases of GPUs, garbage collection. All runs are made together. The code is 1, and a line says
why, where anything was not as it must be: `CHECKS` of `witness.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.cluster import ROOT, memory_after_import_mb, memory_mb, requests_of
from benchmarks.operator import IMPORTS
from benchmarks.rehearsed import Rehearsed, delays_of, memory_of
from benchmarks.simulated import ControlPorts, kwok, make_nodes, without_streamed_lists
from benchmarks.witness import (
    REPORTER,
    RUN,
    Object,
    Scale,
    Witness,
    condition,
    log_faults,
    orphans,
    refusals,
    standing_faults,
)
from harness.control_plane.client import Client
from harness.control_plane.paths import KINDS, collection_of
from harness.control_plane.plane import CONTROLLERS, APIError, ControlPlane, start_control_plane
from psr_operator import api
from psr_operator.api import GROUP, VERSION
from psr_operator.api.crd import rendered
from psr_operator.render import LABEL_UID
from tests.controller.operator_process import HOME, Operator, grant, start_operator

NAMESPACE = "rehearsal"
KINDS_OF_RUNS = (*(kind for kind in KINDS if kind not in ("Event", "Lease")), "EndpointSlice")
"""Of everything that is made for a run."""
PROGRESS_SECONDS = 10.0
PAGE = 500
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


def rehearse(scale: Scale, folder: Path, say: Say = lambda _: None) -> Rehearsed:
    """Rehearse on a control plane of its own.

    Args:
        folder: keys, data and all logs.
        say: told of the progress, a line at a time.

    Raises:
        RuntimeError: the control plane, KWOK or the operator did not start.
    """
    controllers = (*CONTROLLERS, "node-lifecycle-controller")
    with start_control_plane(folder, controllers=controllers) as plane:
        without_streamed_lists(plane)
        _prepare(plane)
        return asyncio.run(Rehearsal(scale, plane, say).go())


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

    def __init__(self, scale: Scale, plane: ControlPlane, say: Say) -> None:
        self.scale = scale
        self.plane = plane
        self.say = say
        self.witness = Witness()
        self.processes = dict(plane.processes)
        self.watching: list[asyncio.Task[None]] = []

    async def go(self) -> Rehearsed:
        plane, scale = self.plane, self.scale
        async with contextlib.AsyncExitStack() as stack:
            self.client = await stack.enter_async_context(Client(plane))
            ports = ControlPorts(self.client)
            stack.push_async_callback(ports.close)
            self.processes["kwok"] = player = stack.enter_context(kwok(plane, ports.network, scale.pace))
            await make_nodes(self.client, scale.nodes, player)
            account = await asyncio.to_thread(grant, plane)
            operator = await asyncio.to_thread(
                stack.enter_context, start_operator(account, plane.folder, lease_seconds=scale.lease, poll_seconds=10.0)
            )
            await self._until(operator.leads, "the operator leads", 60.0)
            self._watch(ports)
            progress = asyncio.create_task(self._tell_progress(operator))
            try:
                seconds = await self._until_ready(operator)
                return await self._judge(operator, account.user, seconds, ports)
            finally:
                for task in (progress, *self.watching):
                    task.cancel()
                await asyncio.gather(progress, *self.watching, return_exceptions=True)

    def _watch(self, ports: ControlPorts) -> None:
        def pod(kind: str, item: Object) -> None:
            ports.seen(kind, item)
            self.witness.pod(kind, item)

        for kind, tell in (("Pod", pod), ("Job", self.witness.job), ("SelfRewardRun", self.witness.run)):
            path = collection_of(kind, NAMESPACE)
            self.watching.append(asyncio.create_task(self.client.watch(path, tell, lambda: None)))

    async def _until_ready(self, operator: Operator) -> float | None:
        """Make all runs together and wait for the last one that is Ready; the seconds, None where not all were."""
        scale, path = self.scale, collection_of("SelfRewardRun", NAMESPACE)
        begun = time.monotonic()
        bodies = [run(number, scale.iterations) for number in range(scale.runs)]
        await asyncio.gather(*(self.client.request("POST", path, body) for body in bodies))
        await self._happens(lambda: len(self.witness.over) == scale.runs, scale.limit, operator)
        seconds = time.monotonic() - begun
        if len(self.witness.ready) == scale.runs:
            return seconds
        for item in await self._list("SelfRewardRun"):
            if item["metadata"]["name"] not in self.witness.ready:
                why = condition(item, "Ready").get("message", "nobody has looked at it")
                self.witness.faults["ready"].append(f"{item['metadata']['name']}: {why}")
        return None

    async def _judge(self, operator: Operator, user: str, seconds: float | None, ports: ControlPorts) -> Rehearsed:
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
        for key, lines in standing_faults(item for item in objects if item["kind"] in api.KINDS).items():
            faults[key] += lines
        faults["orphans"] += orphans(objects)
        vanished = await self._vanish() if operator.process.poll() is None else None
        warnings = await self._warnings()
        refused = await asyncio.to_thread(refusals, self.plane.folder, user)
        faults["refused"] += [f"{what} × {count}" for what, count in refused.items() if what[:3] not in ("404", "409")]
        faults["log"] += log_faults(operator.said())
        await self._process_faults(operator, ports)
        return Rehearsed(
            scale=asdict(scale),
            seconds=round(seconds, 1) if seconds is not None else None,
            delays=delays,
            writes=asked.writes,
            writes_per_iteration=round(asked.writes / (scale.runs * scale.iterations), 1),
            writes_by_kind=asked.by_kind,
            reads=asked.reads,
            refused=dict(refused),
            operator=memory | {"import_mb": round(memory_after_import_mb(IMPORTS["ours"]), 1)},
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
        found: Counter[str] = Counter()
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
                found[f"{reporter} {item['reason']}"] += 1
        return found

    async def _process_faults(self, operator: Operator, ports: ControlPorts) -> None:
        faults = self.witness.faults
        code = operator.process.poll()
        if code is not None:
            faults["process"].append(f"it ended with code {code}")
        path = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases/{operator.lease}"
        lease = (await self.client.request("GET", path))["spec"]
        if lease.get("leaseTransitions", 0) or lease.get("holderIdentity") != "operator-0":
            faults["process"].append(f"the Lease changed hands: {lease}")
        faults["rehearsal"] += [f"{name} ended with code {code}" for name, code in self._ended()]
        faults["rehearsal"] += [repr(error) for error in ports.errors]
        for task in self.watching:
            if task.done() and not task.cancelled():
                faults["rehearsal"].append(f"a watch ended: {task.exception()!r}")

    # --- questions

    async def _list(self, kind: str) -> list[Object]:
        """All objects of a kind in the namespace."""
        found: list[Object] = []
        following = ""
        while True:
            answer = await self._page(kind, PAGE, following)
            found += [{**item, "kind": kind} for item in answer["items"]]
            following = answer["metadata"].get("continue", "")
            if not following:
                return found

    async def _page(self, kind: str, limit: int, following: str = "") -> Object:
        path = (
            f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
            if kind == "EndpointSlice"
            else collection_of(kind, NAMESPACE)
        )
        found: Object = await self.client.request("GET", f"{path}?limit={limit}&continue={following}")
        return found

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
        found = ((name, process.poll()) for name, process in self.processes.items())
        return [(name, code) for name, code in found if code is not None]

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


EXAMPLES = """examples:
  python -m benchmarks.scale                                  200 runs of 4 iterations on 100 nodes
  python -m benchmarks.scale --runs 5 --iterations 2 --nodes 4
  python -m benchmarks.scale --nodes 10                       80 GPUs for 200 runs: pods have to wait
  python -m benchmarks.scale --limit 600 --folder /tmp/scale  logs stay in /tmp/scale

the exit code is 1 where a check failed; a line names it"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=(__doc__ or "").split("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="made together (default: 200)")
    parser.add_argument("--iterations", type=int, default=4, metavar="N", help="of each run (default: 4)")
    parser.add_argument("--nodes", type=int, default=100, metavar="N", help="with 8 GPUs each (default: 100)")
    parser.add_argument("--pace", type=float, default=1.0, metavar="X", help="factor of the pods' delays (default: 1)")
    parser.add_argument("--limit", type=float, default=1800.0, metavar="S", help="until all are Ready (default: 1800)")
    parser.add_argument(
        "--lease-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="of the operator; more where the machine is busy with other things as well (default: 30)",
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where logs stay (default: nowhere)")
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench/scale.json", metavar="FILE")
    given = parser.parse_args()
    scale = Scale(given.runs, given.iterations, given.nodes, given.pace, given.limit, given.lease_seconds)
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psr-scale-")))
        try:
            found = rehearse(scale, folder, lambda line: print(line, flush=True))
        except RuntimeError as error:
            print(f"benchmarks.scale: {error}", file=sys.stderr)
            return 1
    about = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({**asdict(found), "about": about}, indent=1) + "\n")
    print(found.told())
    print(f"written: {given.out}")
    for line in found.failed:
        print(line, file=sys.stderr)
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
