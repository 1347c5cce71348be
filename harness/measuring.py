"""What an operator costs: memory and processor seconds of a process, its requests in the audit log, its histograms."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from harness.control_plane.plane import ControlPlane

ROOT = Path(__file__).parent.parent
WRITING = ("create", "update", "patch", "delete", "deletecollection")
RECONCILE, CHILD = "psr_reconcile_seconds", "psr_child_delay_seconds"


def memory_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    (kib,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kib) * 1024 / 1e6


def memory_after_import_mb(modules: str) -> float:
    """Resident memory of a process that has imported these modules and does nothing."""
    code = f"import {modules}; print(open('/proc/self/status').read())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    (kib,) = re.findall(r"VmRSS:\s+(\d+) kB", done.stdout)
    return int(kib) * 1024 / 1e6


def memory_of(pid: int) -> dict[str, float]:
    """Resident memory of a process in MB, now and at its peak, and the seconds of CPU that it took."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    times = psutil.Process(pid).cpu_times()
    return {
        "rss_mb": round(memory_mb(pid), 1),
        "peak_mb": round(int(peak) * 1024 / 1e6, 1),
        "cpu_seconds": round(times.user + times.system, 1),
    }


@dataclass(frozen=True)
class Requests:
    """What one user asked of the apiserver, Leases left out."""

    writes: int
    reads: int
    by_kind: dict[str, int]


def requests_of(plane: ControlPlane, user: str) -> Requests:
    """Count a user's requests in the audit log."""
    writes: Counter[str] = Counter()
    reads = 0
    for log in sorted(plane.folder.glob("audit*.log")):
        with open(log, encoding="utf-8") as lines:
            for line in lines:
                if user not in line:
                    continue
                event = json.loads(line)
                about = event.get("objectRef", {})
                if event["user"]["username"] != user or about.get("resource") == "leases":
                    continue
                if event["verb"] in WRITING:
                    kind = "/".join(part for part in (about.get("resource"), about.get("subresource")) if part)
                    writes[f"{event['verb']} {kind}"] += 1
                else:
                    reads += 1
    return Requests(sum(writes.values()), reads, dict(writes.most_common()))


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """A quantile of a Prometheus histogram, linear within its bucket.

    Args:
        buckets: upper bounds with cumulative counts, in order, the last one infinite.
    """
    wanted = share * buckets[-1][1]
    low, before = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted and count > before:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - before) / (count - before)
        low, before = (low if math.isinf(bound) else bound), count
    return low


def delays_of(text: str) -> dict[str, dict[str, float]]:
    """p50 and p99 in seconds, and the count, of the operator's histograms in the text of /metrics."""
    delays = {}
    for family in text_string_to_metric_families(text):
        if family.name in (RECONCILE, CHILD):
            buckets = sorted(
                (float(item.labels["le"]), item.value) for item in family.samples if item.name.endswith("_bucket")
            )
            if buckets[-1][1]:
                p50, p99 = (round(quantile(buckets, share), 5) for share in (0.5, 0.99))
                delays[family.name] = {"p50": p50, "p99": p99, "count": buckets[-1][1]}
    return delays
