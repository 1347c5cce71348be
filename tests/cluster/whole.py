"""The whole manifest of the demo, M1 to M4, on the cluster that is up: by hand, as it takes a while.

    make cluster-up
    .venv/dev/bin/python -m tests.cluster.whole

It prints what `kubectl get` shows whenever that changes, and at the end the models' accuracy and each pod's times.
Everything is taken away afterwards, the cluster stays.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.control_plane.plane import named_cluster
from harness.node import images
from harness.node.node import kubeconfig
from tests.cluster import release
from tests.cluster.demo import RUN, cut, make_inputs
from tests.cluster.one_run import Run, start
from tests.cluster.store import BUCKET, start_store, upload_folder

NAMESPACE = "team-whole"


def main() -> int:
    place = os.environ.get("PSR_TEST_KUBECONFIG") or kubeconfig()
    if place is None:
        print("no cluster: run `make cluster-up`, or name one in PSR_TEST_KUBECONFIG", file=sys.stderr)
        return 1
    if not os.environ.get("PSR_TEST_KUBECONFIG"):
        images.make()
    with tempfile.TemporaryDirectory(prefix="psr-whole-") as folder:
        inputs = make_inputs(Path(folder) / "inputs")
        with named_cluster(Path(place), Path(folder)) as cluster, start_store(cluster) as store:
            os.environ.update(store.variables)
            upload_folder(store.storage(), inputs, f"s3://{BUCKET}/input")
            release.install(cluster, release.values())
            cluster.ctl("create", "namespace", NAMESPACE)
            try:
                store.give_to(cluster, NAMESPACE)
                manifest = cut(f"s3://{BUCKET}/input", store.manifest(), iterations=None)
                began = time.monotonic()
                run = start(cluster, NAMESPACE, manifest)
                ready = _watch(run)
                print(f"\nReady after {time.monotonic() - began:.0f} s")
                _report(run, ready)
                run.delete()
            finally:
                cluster.ctl("delete", "namespace", NAMESPACE, "--timeout=180s")
                release.uninstall(cluster)
    return 0


def _watch(run: Run) -> dict[str, Any]:
    """Print the run's line until it is Ready."""
    shown = ""
    began = time.monotonic()

    def ready() -> bool:
        nonlocal shown
        lines = run.cluster.ctl("get", "srr", RUN, "-n", run.namespace, "--no-headers").split()[:-1]
        if (line := "  ".join(lines)) != shown:
            shown = line
            print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)
        condition = run.condition("Ready")
        return condition is not None and condition["status"] == "True"

    run.until(ready, "the run to be Ready")
    return run.read()


def _report(run: Run, ready: dict[str, Any]) -> None:
    for model in ready["status"]["models"]:
        print(f"{model['name']}  accuracy {model.get('accuracy')}  {model['uri']}")
    for pod in sorted(run.pods(), key=lambda item: str(item["metadata"]["creationTimestamp"])):
        for item in pod["status"].get("containerStatuses", ()):
            ended = item["state"].get("terminated")
            if ended is not None:
                print(f"  {pod['metadata']['name']:<36} {ended['startedAt']} to {ended['finishedAt']}")
    print(run.cluster.ctl("get", "psr", "-n", run.namespace))


if __name__ == "__main__":
    sys.exit(main())
