"""The figures of a rehearsal: what they mean, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass

from harness.measuring import CHILD, RECONCILE
from harness.rehearsal.witness import CHECKS


@dataclass(frozen=True)
class Figures:
    """What came of a rehearsal.

    Attributes:
        seconds: from the first run that was made to the last one that was Ready; None where not all were.
        delays: p50, p99 and count of the operator's histograms, seconds.
        writes: of the operator until all was Ready, Leases left out; `writes_per_iteration` is their share.
        operator: memory in MB (at the end, at its peak, of a process that only imports the same), CPU seconds.
        vanish_seconds: from the deletion of all runs until nothing was left of them.
        warnings: Warning events of others, by reporter and reason.
        faults: by the key of `CHECKS`; empty lists where all is well.
    """

    scale: dict[str, float]
    seconds: float | None
    delays: dict[str, dict[str, float]]
    writes: int
    writes_per_iteration: float
    writes_by_kind: dict[str, int]
    reads: int
    refused: dict[str, int]
    operator: dict[str, float]
    jobs: dict[str, int]
    pods: dict[str, int]
    most_pending: int
    vanish_seconds: float | None
    warnings: dict[str, int]
    log_warnings: int
    faults: dict[str, list[str]]

    @property
    def failed(self) -> list[str]:
        """A line for every check that failed."""
        return [
            f"{CHECKS[key]}: NOT SO ({len(lines)}): {'; '.join(lines[:3])}"
            for key, lines in self.faults.items()
            if lines
        ]

    def report(self) -> str:
        """The figures, for people."""
        reconcile, child = self.delays.get(RECONCILE, {}), self.delays.get(CHILD, {})
        return "\n".join(
            (
                f"all Ready after {self.seconds} s; nothing left {self.vanish_seconds} s after they were deleted",
                f"{sum(self.jobs.values())} Jobs, {sum(self.pods.values())} pods, at most {self.most_pending} pending",
                f"{self.writes_per_iteration} writes an iteration; refused: {self.refused or 'none'}",
                f"a reconcile: p50 {reconcile.get('p50')} s, p99 {reconcile.get('p99')} s; "
                f"a child: p50 {child.get('p50')} s, p99 {child.get('p99')} s",
                f"operator: {', '.join(f'{name} {value}' for name, value in self.operator.items())}",
            )
        )
