"""A node on which everything succeeds at once and nothing happens: what `psr run --dry-run` plans against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psr_operator.planner.types import Phase, Server, ServerState, Workload, WorkloadState
from psr_runtime.stages import STAGES


def rehearsed_result(stage: str) -> dict[str, Any]:
    """What a stage says at its end where nothing has happened, besides output and digest."""
    return STAGES[stage].result().model_dump(mode="json", exclude_none=True)


class Rehearsal:
    """Says what would be carried out.

    Args:
        say: called with a line for each Workload and Server.

    Attributes:
        lines: how many there were.
        gpus: the most that one Workload or Server asks for on this machine.
        server_gpus: the most that one Server does.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._write = say
        self.lines = 0
        self.gpus = 0
        self.server_gpus = 0
        self._workloads: dict[str, WorkloadState] = {}
        self._servers: dict[str, ServerState] = {}

    def _say(self, line: str) -> None:
        self.lines += 1
        self._write(line)

    def run(self, workload: Workload) -> None:
        self.gpus = max(self.gpus, workload.gpus * len(workload.configurations))
        for config in workload.configurations:
            self._say(f"run    {workload.stage:<9} {workload.name:<32} → {config.output}")
        first = workload.configurations[0]
        result = {"output": first.output, "digest": f"sha256:{workload.name}"} | rehearsed_result(workload.stage)
        self._workloads[workload.name] = WorkloadState(
            workload.name, workload.attempt, Phase.SUCCEEDED, result=result, gone=True
        )

    def stop(self, name: str) -> None:
        """Nothing runs."""

    def workload(self, name: str) -> WorkloadState | None:
        return self._workloads.get(name)

    def serve(self, server: Server) -> None:
        self.server_gpus = max(self.server_gpus, server.gpus * server.replicas)
        self.gpus = max(self.gpus, self.server_gpus)
        before = self._servers.get(server.name)
        if before is None or before.gone or before.ready != server.model.uri:
            self._say(f"serve  {'':<9} {server.name:<32} ← {server.model.uri}")
        self._servers[server.name] = ServerState(
            server.name, endpoints=("http://127.0.0.1:1",), ready=server.model.uri, digest=server.digest
        )

    def release(self, name: str) -> None:
        before = self._servers.get(name)
        if before is not None and not before.gone:
            self._say(f"stop   {'':<9} {name}")
            self._servers[name] = ServerState(name, gone=True)

    def server(self, name: str) -> ServerState | None:
        return self._servers.get(name)

    def stop_all(self) -> None:
        """Nothing runs."""
