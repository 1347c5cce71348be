"""Both executors behind one face: start a Workload, stop it, look at its state. Processes here, Jobs on a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.control_plane.plane import ControlPlane
from harness.control_plane.player import Outcome, Player, Pod, play
from psr_operator.api import Resource
from psr_operator.backends.base import ObjectKind
from psr_operator.backends.job import BACKEND, JOB
from psr_operator.controller.client import Client
from psr_operator.controller.facts import pod_facts
from psr_operator.controller.kopf_adapter import login_from
from psr_operator.controller.paths import collection_of
from psr_operator.controller.store import Store
from psr_operator.controller.workload_state import workload_states
from psr_operator.controller.writer import Writer
from psr_operator.local.node import Node
from psr_operator.planner.types import Workload, WorkloadState
from psr_operator.render import LABEL_UID, Settings

T = TypeVar("T")

STAGE = """
import json, signal, sys, time
from pathlib import Path
import os
config = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
*_, ends, _, folder = config["output"].split("/")
how = ends.split("_")[int(folder.partition("-of-")[0])]
place = Path(os.environ["PSR_TERMINATION_MESSAGE"])
if how == "held":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    gate = Path(os.environ["PSR_SCRATCH"]) / "released"
    while not gate.exists():
        time.sleep(0.02)
    how = "0"
if how == "mute":
    sys.exit(0)
code = int(how)
place.write_text(json.dumps({"output": config["output"], "digest": "sha256:0"} if code == 0 else {"error": "it broke"}))
sys.exit(code)
"""


class Executor(Protocol):
    """What the table of states needs of an executor. An output's URI tells how its stage ends:
    `…/65_held/shards/0-of-2` by 65."""

    def run(self, workload: Workload) -> None: ...
    def stop(self, name: str) -> None: ...
    def state(self, name: str) -> WorkloadState | None: ...
    def release(self) -> None:
        """Let stages end that are held."""
        ...


class Here:
    """`psr run`'s node with a stage that ends as its output says."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stage.py").write_text(STAGE)
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} {folder / "stage.py"} "$@"\n')
        python.chmod(0o755)
        self._node = Node(folder, {}, python=str(python))
        self._gate = folder / "scratch" / "released"

    def run(self, workload: Workload) -> None:
        self._node.run(workload)

    def stop(self, name: str) -> None:
        self._node.stop(name)

    def state(self, name: str) -> WorkloadState | None:
        return self._node.workload(name)

    def release(self) -> None:
        self._gate.touch()

    def close(self) -> None:
        self._node.stop_all()


class OnCluster:
    """The controller's own writer and observation on a control plane, without its loop."""

    def __init__(self, plane: ControlPlane, player: Player, owner: Resource, folder: Path) -> None:
        self._player = player
        self._owner = owner
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        kubeconfig = plane.kubeconfig_for("admin-of-a-test-control-plane", folder / "kubeconfig")
        self._store = Store()
        self._names: list[str] = []

        async def make() -> tuple[Client, Writer]:
            client = Client(login_from(str(kubeconfig)))
            return client, Writer(client, self._store, Settings("runtime", "inference"), lambda *_: None)

        self._client, self._writer = self._wait(make())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def run(self, workload: Workload) -> None:
        self._names.append(workload.name)
        self._wait(self._writer.workload(self._owner, workload))

    def stop(self, name: str) -> None:
        self.state(name)
        for facts in self._store.workloads.of(self._owner.metadata.uid):
            if facts.name == name:
                self._wait(self._writer.stop(facts))

    def state(self, name: str) -> WorkloadState | None:
        meta = self._owner.metadata

        async def read(kind: str | ObjectKind) -> list[Any]:
            selector = f"{LABEL_UID}={meta.uid}"
            return [raw async for raw in self._client.items(collection_of(kind, meta.namespace), selector)]

        pods = [facts for raw in self._wait(read("Pod")) if (facts := pod_facts(raw)) is not None]
        jobs = [facts for raw in self._wait(read(JOB)) if (facts := BACKEND.facts(raw)) is not None]
        for facts in jobs:
            self._store.workloads.put(facts)
        return next((item for item in workload_states(jobs, pods, {}) if item.name == name), None)

    def release(self) -> None:
        for name in self._names:
            self._player.release(name)

    def close(self) -> None:
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def as_its_output_says(pod: Pod) -> Outcome:
    """The script of a pod that ends as its output's URI says."""
    *_, ends, _, folder = str((pod.config or {}).get("output", "")).split("/")
    how = ends.split("_")[int(folder.partition("-of-")[0])]
    if how == "held":
        return Outcome(hold=True)
    if how == "mute":
        return Outcome(message="")
    return Outcome(code=int(how), message=None if how == "0" else json.dumps({"error": "it broke"}))


@contextlib.contextmanager
def here(folder: Path) -> Iterator[Here]:
    """The executor of this machine."""
    executor = Here(folder)
    try:
        yield executor
    finally:
        executor.close()


@contextlib.contextmanager
def on_cluster(plane: ControlPlane, namespace: str, owner: Resource, folder: Path) -> Iterator[OnCluster]:
    """The executor for Kubernetes, with a played node."""
    with play(plane, namespaces=[namespace], script=as_its_output_says) as player:
        executor = OnCluster(plane, player, owner, folder)
        try:
            yield executor
            assert player.errors == []
        finally:
            executor.close()
