"""A node on which everything succeeds at once and nothing happens: what `psr run --dry-run` plans against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psr_operator.planner.types import Phase, Server, ServerState, Workload, WorkloadState

RESULTS: dict[str, dict[str, Any]] = {
    "sft": {"updates": 0},
    "search": {},
    "merge": {"pairs": 0, "problems": 0},
    "step-dpo": {"updates": 0},
    "evaluate": {"accuracy": 0.0, "problems": 0},
    "report": {},
    "prune": {"files": 0, "bytes": 0},
}
"""What the planner reads of each stage's result."""


class Rehearsal:
    """Tells what would be carried out.

    Args:
        say: told of each Workload and Server, a line each; `said` counts them.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._tell = say
        self.said = 0
        self._workloads: dict[str, WorkloadState] = {}
        self._servers: dict[str, ServerState] = {}

    def _say(self, line: str) -> None:
        self.said += 1
        self._tell(line)

    def run(self, workload: Workload) -> None:
        for config in workload.configurations:
            self._say(f"run    {workload.stage:<9} {workload.name:<32} → {config.output}")
        first = workload.configurations[0]
        result = {"output": first.output, "digest": f"sha256:{workload.name}", **RESULTS[workload.stage]}
        self._workloads[workload.name] = WorkloadState(
            workload.name, workload.attempt, Phase.SUCCEEDED, result=result, gone=True
        )

    def stop(self, name: str) -> None:
        """Nothing runs."""

    def workload(self, name: str) -> WorkloadState | None:
        return self._workloads.get(name)

    def serve(self, server: Server) -> None:
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
