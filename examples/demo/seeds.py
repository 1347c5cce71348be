"""The demo with several seeds, and their table: is the rise from M1 to M4 a matter of luck?

Each seed makes its own data and its own run in a folder of its own; a run that was interrupted goes on.

    python examples/demo/seeds.py --out out/demo-seeds --seeds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPORT = "file:///psr/runs/default/demo/report/m4"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every seed and print the table in Markdown. Returns the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="one folder a seed goes below it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="N")
    options = parser.parse_args(arguments)
    for seed in options.seeds:
        code = run_seed(seed, options.out / str(seed))
        if code != 0:
            return code
    print(table({seed: json.loads((options.out / str(seed) / "results.json").read_text()) for seed in options.seeds}))
    return 0


def run_seed(seed: int, folder: Path) -> int:
    """Data, run and report of one seed. Returns the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "run.yaml"
    manifest.write_text(with_seed((HERE / "run.yaml").read_text(), seed))
    mount = ["--mount", f"/psr={folder / 'volume'}"]
    psr = [sys.executable, "-m", "psr_operator.cli"]
    data = folder / "volume" / "input"
    for command in (
        [sys.executable, str(HERE / "make_data.py"), "--out", str(data), "--seed", str(seed)],
        [*psr, "run", "-f", str(manifest), "--workdir", str(folder / "work"), *mount],
        [*psr, "report", REPORT, *mount, "--to", str(folder)],
    ):
        print(f"seed {seed}: {' '.join(command[1:])}", flush=True)
        code = subprocess.run(command, check=False).returncode
        if code != 0:
            return code
    return 0


def with_seed(manifest: str, seed: int) -> str:
    """The manifest with another `spec.seed`."""
    before = "\n  seed: 0\n"
    if manifest.count(before) != 1:
        raise ValueError("run.yaml: expected one line `seed: 0` under spec")
    return manifest.replace(before, f"\n  seed: {seed}\n")


def table(results: dict[int, dict[str, Any]]) -> str:
    """Accuracy of each model, the judge on the policy's own candidates by round, and pairs, a row a seed."""
    names = [model["model"] for model in next(iter(results.values()))["models"]]
    lines = [
        f"| seed | {' | '.join(names)} | judge on own candidates | pairs |",
        "| --- |" + " --- |" * (len(names) + 2),
    ]
    for seed, result in results.items():
        models = result["models"]
        rounds = [model for model in models if model.get("pairs") is not None]
        judge = " / ".join(f"{100 * model['judge']['accuracy_on_own_candidates']:.1f}" for model in rounds)
        pairs = " / ".join(str(model["pairs"]) for model in rounds)
        accuracy = " | ".join(f"{100 * model['accuracy']:.1f}" for model in models)
        lines.append(f"| {seed} | {accuracy} | {judge} | {pairs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
