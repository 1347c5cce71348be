"""Every manifest under examples/ loads and rehearses; the demo's plan is written out in full."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from psr_operator.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = sorted(path for path in EXAMPLES.rglob("*.yaml") if "\napiVersion: psr.dev/" in path.read_text())
"""Those of our kinds; the others (Argo CD's, Flux's) are tests/gitops's."""

DEMO = """\
run    sft       demo-sft-a1                      → file:///psr/runs/default/demo/m1
serve            demo-server                      ← file:///psr/runs/default/demo/m1
run    evaluate  demo-m1-fresh-a1                 → file:///psr/runs/default/demo/evaluations/m1/fresh
run    search    demo-1-pairs-search-a1           → file:///psr/runs/default/demo/iteration-1/pairs/shards/0-of-1
run    merge     demo-1-pairs-merge-a1            → file:///psr/runs/default/demo/iteration-1/pairs
run    step-dpo  demo-1-dpo-a1                    → file:///psr/runs/default/demo/m2
serve            demo-server                      ← file:///psr/runs/default/demo/m2
run    evaluate  demo-m2-fresh-a1                 → file:///psr/runs/default/demo/evaluations/m2/fresh
run    search    demo-2-pairs-search-a1           → file:///psr/runs/default/demo/iteration-2/pairs/shards/0-of-1
run    merge     demo-2-pairs-merge-a1            → file:///psr/runs/default/demo/iteration-2/pairs
run    step-dpo  demo-2-dpo-a1                    → file:///psr/runs/default/demo/m3
serve            demo-server                      ← file:///psr/runs/default/demo/m3
run    evaluate  demo-m3-fresh-a1                 → file:///psr/runs/default/demo/evaluations/m3/fresh
run    search    demo-3-pairs-search-a1           → file:///psr/runs/default/demo/iteration-3/pairs/shards/0-of-1
run    merge     demo-3-pairs-merge-a1            → file:///psr/runs/default/demo/iteration-3/pairs
run    step-dpo  demo-3-dpo-a1                    → file:///psr/runs/default/demo/m4
serve            demo-server                      ← file:///psr/runs/default/demo/m4
run    evaluate  demo-m4-fresh-a1                 → file:///psr/runs/default/demo/evaluations/m4/fresh
run    report    demo-report-m4-a1                → file:///psr/runs/default/demo/report/m4
stop             demo-server
"""


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_every_example_rehearses(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if path.parent.name == "h100":  # training on several GPUs is refused so far (tests/docs/test_h100_examples.py)
        on_one = re.sub(r"(trainingResources:.*\n    nodes: )\d+(\n    gpus: )\d+", r"\g<1>1\g<2>1", path.read_text())
        path = tmp_path / path.name
        path.write_text(on_one)
    assert main(["run", "-f", str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("run ") for line in lines)
    served = [line.split()[1] for line in lines if line.startswith("serve ")]
    stopped = [line.split()[1] for line in lines if line.startswith("stop ")]
    declared = path.read_text().count("kind: PolicyServer")
    assert len(set(served)) == len(set(stopped)) + declared, "a server that nobody declared is left"


def test_the_demo_s_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-f", str(EXAMPLES / "demo" / "run.yaml"), "--dry-run", "--mount", "/psr=volume"]) == 0
    assert capsys.readouterr().out == DEMO
    assert list(tmp_path.iterdir()) == [], "a rehearsal leaves nothing behind"
