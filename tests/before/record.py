"""Record what this version does, so that later versions can be held to it.

    python -m tests.before.record digests

Each name writes one file beside this one anew. What was recorded once is not recorded again: a later version must
agree with what an earlier one did, and its own record would agree with anything.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.before.planned import plan_manifest, schema_version

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def record_digests(place: Path) -> None:
    """Write every manifest of `examples/`, and one of our own with what they do not ask for; and what was planned."""
    examples = (path for path in (ROOT / "examples").rglob("*.yaml") if "\napiVersion: psr.dev/" in path.read_text())
    manifests = {str(path.relative_to(ROOT)): path.read_text() for path in (*examples, HERE / "everything.yaml")}
    plans = {name: plan_manifest(text) for name, text in manifests.items()}
    stages = sorted({item.stage for plan in plans.values() for item in plan})
    found = {
        "schemaVersions": {stage: schema_version(stage) for stage in stages},
        "manifests": manifests,
        "plans": {
            name: [
                {
                    "workload": item.workload,
                    "stage": item.stage,
                    "shard": item.shard,
                    "digest": item.digest,
                    "configuration": item.configuration,
                }
                for item in plan
            ]
            for name, plan in plans.items()
        },
    }
    place.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


RECORDERS: dict[str, tuple[Callable[[Path], None], Path]] = {
    "digests": (record_digests, HERE / "digests.json"),
}


def main(arguments: Sequence[str]) -> int:
    """Record what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.before.record", description=__doc__)
    parser.add_argument("names", nargs="+", choices=RECORDERS, metavar="NAME", help=", ".join(RECORDERS))
    for name in parser.parse_args(arguments).names:
        record, place = RECORDERS[name]
        record(place)
        print(f"{place.relative_to(ROOT)}: {place.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
