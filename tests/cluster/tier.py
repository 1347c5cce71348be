"""`make test-cluster`: a cluster, images, the tests of this folder, and nothing left afterwards.

A node that is up already is used and stays up; so does a cluster that PSR_TEST_KUBECONFIG names, which must know the
images of `images.py`. Schema after `--` go to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from harness.control_plane.build import BuildFailed, program
from images.build import BuildError
from tests.cluster import node, node_images

T = TypeVar("T")

PYTEST = [sys.executable, "-m", "pytest", "tests/cluster", "-m", "cluster", "-s", "--timeout=3000"]


def main(arguments: list[str]) -> int:
    """Run the tier; pytest's exit code, or 1 where there was nothing to test on."""
    named = bool(os.environ.get("PSR_TEST_KUBECONFIG"))
    was_up = named or node.kubeconfig() is not None
    try:
        _step("helm", lambda: program("helm", say=lambda line: print(line, flush=True)))
        if not named:
            _step("cluster up", node.up)
            _step("images", node_images.make)
        return _step("tests", lambda: subprocess.run([*PYTEST, *arguments], check=False).returncode)
    except (node.NodeError, BuildError, BuildFailed) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if not was_up and node.kubeconfig() is not None:
            _step("cluster down", node.down)


def _step(name: str, work: Callable[[], T]) -> T:
    started = time.monotonic()
    print(f"--- {name}", flush=True)
    result = work()
    print(f"--- {name}: {time.monotonic() - started:.0f} s", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
