"""The player of `harness/control_plane/player.py` as a process of its own: Jobs, Deployments and their pods are played.

    python -m benchmarks.play URL CA-FILE

It prints `ready`, and its counts as JSON when its standard input is closed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.control_plane.plane import ControlPlane
from harness.control_plane.player import play


def main() -> int:
    url, ca = sys.argv[1], Path(sys.argv[2])
    plane = ControlPlane(url, ca, ca, ca, ca.parent, None)
    with play(plane, jobs=True) as player:
        print("ready", flush=True)
        sys.stdin.read()
    print(json.dumps({**player.counts, "errors": [repr(error) for error in player.errors]}), flush=True)
    return 1 if player.errors else 0


if __name__ == "__main__":
    sys.exit(main())
