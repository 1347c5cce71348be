"""`make test-cluster`: a cluster, images, the tests of this folder, and nothing left afterwards.

A node that is up already is used and stays up; so does a cluster that PSR_TEST_KUBECONFIG names, which must know the
images of `harness/node/images.py`. Words after `--` go to pytest. With `--prepare` packages, programs and images are
made, and no node starts: `.ci/run` does so beside other tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from harness.control_plane.build import BuildFailed, program
from harness.control_plane.plane import named_cluster
from harness.node import images, node
from harness.node.processes import NodeError
from images.build import BuildError
from tests.cluster import release
from tests.cluster.keep import KEPT, keep
from tests.cluster.store import SHARED, start_store

T = TypeVar("T")

PYTEST = [sys.executable, "-m", "pytest", "tests/cluster", "-m", "cluster", "-s", "--timeout=3000"]
WORKERS = ["-n", "2", "--max-worker-restart", "0"]
"""The run of the demo beside all other files; they share the S3 server and the release."""
TIMES = Path(__file__).parents[2] / "out" / "times" / "test-cluster.json"


class Tier:
    """The steps of `make test-cluster`, each with the seconds that it took."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def prepare(self) -> int:
        """Make what a later `run` needs; 0, or 1 where something cannot be had."""
        if os.environ.get("PSR_TEST_KUBECONFIG"):
            return 0
        try:
            self._step("packages and programs", node.prepare)
            self._step("helm", lambda: program("helm", say=_say))
            self._step("images", images.build_all)
        except (NodeError, BuildError, BuildFailed) as error:
            print(error, file=sys.stderr)
            return 1
        return 0

    def run(self, arguments: list[str]) -> int:
        """Run the tier; pytest's exit code, or 1 where there was nothing to test on."""
        named = bool(os.environ.get("PSR_TEST_KUBECONFIG"))
        was_up = named or node.kubeconfig() is not None
        try:
            if not named:
                self._step("packages and programs", node.prepare)
                with ThreadPoolExecutor(1) as pool:  # the node starts while images are built
                    built = pool.submit(images.build_all)
                    self._step("cluster up", node.up)
                    self._step("images built", built.result)
                self._step("images on the node", images.copy_to_node)
            self._step("helm", lambda: program("helm", say=_say))
            if named:
                return self._step("tests", lambda: _pytest(arguments))
            with self._shared():
                return self._step("tests", lambda: _pytest([*WORKERS, *arguments]))
        except (NodeError, BuildError, BuildFailed) as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            if not was_up and node.kubeconfig() is not None:
                self._step("cluster down", node.down)
            TIMES.parent.mkdir(parents=True, exist_ok=True)
            TIMES.write_text(json.dumps(self._seconds, indent=1) + "\n")

    @contextlib.contextmanager
    def _shared(self) -> Iterator[None]:
        """What the workers share: an S3 server and PSR, installed. `conftest.py` finds them in the environment."""
        with tempfile.TemporaryDirectory(prefix="psr-tier-") as folder, contextlib.ExitStack() as stack:
            cluster = stack.enter_context(named_cluster(_kubeconfig(), Path(folder)))
            try:
                store = self._step("S3 server", lambda: stack.enter_context(start_store(cluster)))
                self._step("release", lambda: release.install(cluster, release.values()))
            except BaseException:
                keep(cluster, KEPT / "release")
                raise
            stack.callback(release.uninstall, cluster)
            os.environ[SHARED] = json.dumps(asdict(store))
            try:
                yield
            finally:
                del os.environ[SHARED]

    def _step(self, name: str, work: Callable[[], T]) -> T:
        started = time.monotonic()
        print(f"--- {name}", flush=True)
        result = work()
        self._seconds[name] = round(time.monotonic() - started, 1)
        print(f"--- {name}: {self._seconds[name]:.0f} s", flush=True)
        return result


def _kubeconfig() -> Path:
    place = node.kubeconfig()
    if place is None:
        raise NodeError("the node that was up has ended")
    return place


def _pytest(arguments: list[str]) -> int:
    return subprocess.run([*PYTEST, *arguments], check=False).returncode


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(Tier().prepare() if sys.argv[1:] == ["--prepare"] else Tier().run(sys.argv[1:]))
