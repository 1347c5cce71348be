"""A world for the planner without processes: the executor for one machine on a node whose states a test moves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psr_operator.api import KINDS, Resource
from psr_operator.conditions import Transition
from psr_operator.local.executor import Executor
from psr_operator.local.rehearsal import rehearsed_result
from psr_operator.planner.types import ExitClass, Phase, Server, ServerState, Workload, WorkloadState
from psr_runtime.config import PruneStage
from psr_runtime.protocol import FailureReason

TRAINING = ("sft", "step-dpo")


class ScriptedNode:
    """Workloads start Pending and servers start Loading; the test says what happens to them."""

    def __init__(self) -> None:
        self.workloads: dict[str, WorkloadState] = {}
        self.specs: dict[str, Workload] = {}
        self.order: list[str] = []
        self.servers: dict[str, ServerState] = {}
        self.server_specs: dict[str, Server] = {}
        self.results: dict[str, dict[str, Any]] = {}
        """Of Workloads of these names, what their results say."""
        self.pruned: set[str] = set()
        """Models whose weights are gone."""

    def run(self, workload: Workload) -> None:
        assert workload.name not in self.specs, f"{workload.name} was started twice"
        self.specs[workload.name] = workload
        self.order.append(workload.name)
        self.workloads[workload.name] = WorkloadState(workload.name, workload.attempt, Phase.PENDING)

    def stop(self, name: str) -> None:
        """The process ends at its next step; the test moves it with `end`."""
        state = self.workloads.get(name)
        if state is not None and state.phase in (Phase.PENDING, Phase.RUNNING):
            self.workloads[name] = replace(state, phase=Phase.FAILED, exit_class=ExitClass.TEMPORARY, message="stopped")

    def workload(self, name: str) -> WorkloadState | None:
        return self.workloads.get(name)

    def serve(self, server: Server) -> None:
        before = self.servers.get(server.name)
        if before is not None and not before.gone and server.name not in self.server_specs:
            return  # the last one is still ending
        if before is None or before.gone or self.server_specs[server.name] != server:
            self.servers[server.name] = ServerState(server.name, message="loading")
        self.server_specs[server.name] = server

    def release(self, name: str) -> None:
        state = self.servers.get(name)
        if state is not None and not state.gone:
            self.servers[name] = replace(state, endpoints=(), ready=None, message="stopping")
            self.server_specs.pop(name, None)

    def server(self, name: str) -> ServerState | None:
        return self.servers.get(name)

    def stop_all(self) -> None:
        """Nothing runs."""

    # --- what the test does

    @property
    def live(self) -> list[Workload]:
        """Workloads of which something is left."""
        return [self.specs[name] for name, state in self.workloads.items() if not state.gone]

    def start(self, name: str) -> None:
        self.workloads[name] = replace(self.workloads[name], phase=Phase.RUNNING)

    def succeed(self, name: str) -> None:
        workload = self.specs[name]
        for config in workload.configurations:
            if isinstance(config, PruneStage):
                self.pruned |= {model.uri for model in config.models}
        result = {
            "output": workload.configurations[0].output,
            "digest": f"sha256:{workload.configurations[0].output}",
            **rehearsed_result(workload.stage),
            **self.results.get(name, {}),
        }
        self.workloads[name] = replace(self.workloads[name], phase=Phase.SUCCEEDED, result=result, gone=True)

    def fail(
        self,
        name: str,
        how: ExitClass,
        message: str = "it broke",
        *,
        reason: FailureReason | None = None,
        gone: bool = True,
    ) -> None:
        self.workloads[name] = replace(
            self.workloads[name], phase=Phase.FAILED, exit_class=how, message=message, reason=reason, gone=gone
        )

    def end(self, name: str) -> None:
        self.workloads[name] = replace(self.workloads[name], gone=True)

    def vanish(self, name: str) -> None:
        """Somebody deletes it."""
        del self.workloads[name]

    def ready(self, name: str) -> None:
        """The server proves that it serves what is wanted now, unless the weights of that are gone."""
        spec = self.server_specs[name]
        if spec.model.uri in self.pruned:
            message = f"{spec.model.uri}: its weights were pruned by retention Last"
            self.servers[name] = ServerState(name, message=message, failed=True, reason=FailureReason.WEIGHTS_PRUNED)
            return
        digest = spec.digest or f"sha256:{spec.model.uri}"
        self.servers[name] = ServerState(name, ("http://server:8000",), ready=spec.model.uri, digest=digest)

    def gone(self, name: str) -> None:
        self.servers[name] = ServerState(name, gone=True)


class World:
    """Objects, a scripted node and a clock. `artefacts`: whether those of an earlier world are still there."""

    def __init__(self, folder: Path, *objects: Resource, artefacts: bool = False) -> None:
        self.node = ScriptedNode()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.transitions: list[Transition] = []
        self.executor = Executor(folder, self.node, self.transitions.append, lambda: self.now, lambda *_: artefacts)
        self.objects = list(objects)
        self.executor.apply(objects)
        self.executor.settle()

    def settle(self) -> None:
        self.executor.settle()

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.settle()

    def change(self, **fields: Any) -> None:
        """Change operation fields of the first object, as a user would by applying it again."""
        first = self.objects[0]
        spec = first.spec.model_copy(update=fields)
        self.objects[0] = first.model_copy(update={"spec": spec})
        self.executor.apply(self.objects)
        self.settle()

    def get(self, kind: str, name: str) -> Resource:
        item = self.executor.store.get(kind, name)
        assert item is not None, f"there is no {kind}/{name}"
        return item

    @property
    def root(self) -> Resource:
        first = self.objects[0]
        return self.get(first.kind, first.metadata.name)

    def condition(self, kind: str = "", name: str = "") -> tuple[str, str]:
        """The condition that is True (or Ready=False) and its reason, of the root or of a named object."""
        item = self.get(kind, name) if kind else self.root
        conditions = item.status.conditions
        shown = next((item for item in conditions if item.status == "True"), conditions[0])
        return shown.type if shown.status == "True" else "Idle", shown.reason

    def delete(self, kind: str, name: str) -> None:
        """Somebody deletes an object."""
        self.get(kind, name)
        del self.executor.store._objects[kind, name]
        self.settle()

    def step(self, but: str = "") -> bool:
        """Let one thing go well: a workload starts, succeeds or ends, a server gets ready or goes. False: all still.

        Args:
            but: a workload that is left as it is.
        """
        for name, state in self.node.workloads.items():
            if state.gone or name == but:
                continue
            if state.phase is Phase.PENDING:
                self.node.start(name)
            elif state.phase is Phase.RUNNING:
                self.node.succeed(name)
            else:
                self.node.end(name)
            self.settle()
            return True
        for name, server in self.node.servers.items():
            if name not in self.node.server_specs:
                if not server.gone:
                    self.node.gone(name)
                    self.settle()
                    return True
            elif server.ready is None and not server.failed:
                self.node.ready(name)
                self.settle()
                return True
        return False

    def finish(self, limit: int = 500) -> None:
        """Let everything go well until nothing moves any more."""
        for _ in range(limit):
            if not self.step():
                before = self.root.status
                self.pass_time(600)
                if self.root.status == before and not self.node.live:
                    return
        raise AssertionError("it does not come to an end")


STORAGE = {"uri": "s3://bucket/runs"}
MODEL = {"uri": "s3://bucket/models/m0"}


def resource(kind: str, name: str = "it", **spec: Any) -> Resource:
    """An object as a manifest would give it."""
    return KINDS[kind].model_validate(
        {"apiVersion": "psr.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    )


def run_of(
    rounds: int = 2,
    *,
    gpus: int = 1,
    sft: bool = True,
    idle: str | None = "Release",
    retention: str = "All",
    **spec: Any,
) -> Resource:
    """A SelfRewardRun on GPUs."""
    return resource(
        "SelfRewardRun",
        "run",
        model=MODEL,
        **({"sft": {"ift": "s3://bucket/ift.jsonl"}} if sft else {}),
        problems="s3://bucket/problems.jsonl",
        iterations=[{"questions": 400 * (number + 1)} for number in range(rounds)],
        evaluations=[{"name": "gsm8k", "problems": "s3://bucket/gsm8k.jsonl"}],
        storage={**STORAGE, "retention": retention},
        trainingResources={"gpus": gpus},
        server={"idle": idle, "resources": {"gpus": gpus}} if idle else {"resources": {"gpus": gpus}},
        **spec,
    )
