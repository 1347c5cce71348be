"""A rehearsal: the operator's real process with hundreds of runs, on a real control plane with simulated nodes.

    make bench-scale                                         200 runs of 4 iterations, out/bench/scale.json
    python -m benchmarks.scale --runs 5 --iterations 2       a small one, to see that it works

What happens in it is in `harness/rehearsal`. The exit code is 1, and a line says why, where anything was not as it
must be: `CHECKS` of `witness.py` there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from harness.rehearsal.rehearsal import rehearse
from harness.rehearsal.witness import Scale

ROOT = Path(__file__).parent.parent
EXAMPLES = """examples:
  python -m benchmarks.scale                                  200 runs of 4 iterations on 100 nodes
  python -m benchmarks.scale --runs 5 --iterations 2 --nodes 4
  python -m benchmarks.scale --nodes 10                       80 GPUs for 200 runs: pods have to wait
  python -m benchmarks.scale --limit 600 --folder /tmp/scale  logs stay in /tmp/scale

the exit code is 1 where a check failed; a line names it"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=(__doc__ or "").split("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="made together (default: 200)")
    parser.add_argument("--iterations", type=int, default=4, metavar="N", help="of each run (default: 4)")
    parser.add_argument("--nodes", type=int, default=100, metavar="N", help="with 8 GPUs each (default: 100)")
    parser.add_argument("--pace", type=float, default=1.0, metavar="X", help="factor of the pods' delays (default: 1)")
    parser.add_argument("--limit", type=float, default=1800.0, metavar="S", help="until all are Ready (default: 1800)")
    parser.add_argument(
        "--lease-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="of the operator; more where the machine is busy with other things as well (default: 30)",
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where logs stay (default: nowhere)")
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench/scale.json", metavar="FILE")
    options = parser.parse_args()
    scale = Scale(options.runs, options.iterations, options.nodes, options.pace, options.limit, options.lease_seconds)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psr-scale-")))
        try:
            figures = rehearse(scale, folder, lambda line: print(line, flush=True))
        except RuntimeError as error:
            print(f"benchmarks.scale: {error}", file=sys.stderr)
            return 1
    about = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**asdict(figures), "about": about}, indent=1) + "\n")
    print(figures.report())
    print(f"written: {options.out}")
    for line in figures.failed:
        print(line, file=sys.stderr)
    return 1 if figures.failed else 0


if __name__ == "__main__":
    sys.exit(main())
