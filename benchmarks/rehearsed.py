"""The figures of a rehearsal (`scale.py`): what they mean, where they are read, how they are told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.cluster import memory_mb
from benchmarks.operator import CHILD, RECONCILE, quantile
from benchmarks.witness import CHECKS


@dataclass(frozen=True)
class Rehearsed:
    """What came of it.

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

    def told(self) -> str:
        """The figures, for people."""
        look, child = self.delays.get(RECONCILE, {}), self.delays.get(CHILD, {})
        return "\n".join(
            (
                f"all Ready after {self.seconds} s; nothing left {self.vanish_seconds} s after they were deleted",
                f"{sum(self.jobs.values())} Jobs, {sum(self.pods.values())} pods, at most {self.most_pending} pending",
                f"{self.writes_per_iteration} writes an iteration; refused: {self.refused or 'none'}",
                f"a look: p50 {look.get('p50')} s, p99 {look.get('p99')} s; "
                f"a child: p50 {child.get('p50')} s, p99 {child.get('p99')} s",
                f"operator: {', '.join(f'{name} {value}' for name, value in self.operator.items())}",
            )
        )


def delays_of(text: str) -> dict[str, dict[str, float]]:
    """p50 and p99 in seconds, and the count, of the operator's histograms in the text of /metrics."""
    found = {}
    for family in text_string_to_metric_families(text):
        if family.name in (RECONCILE, CHILD):
            buckets = sorted(
                (float(item.labels["le"]), item.value) for item in family.samples if item.name.endswith("_bucket")
            )
            if buckets[-1][1]:
                p50, p99 = (round(quantile(buckets, share), 5) for share in (0.5, 0.99))
                found[family.name] = {"p50": p50, "p99": p99, "count": buckets[-1][1]}
    return found


def memory_of(pid: int) -> dict[str, float]:
    """Resident memory of a process in MB, now and at its peak, and the seconds of CPU that it took."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    times = psutil.Process(pid).cpu_times()
    return {
        "rss_mb": round(memory_mb(pid), 1),
        "peak_mb": round(int(peak) * 1024 / 1e6, 1),
        "cpu_seconds": round(times.user + times.system, 1),
    }
