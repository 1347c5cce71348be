"""kubectl takes the shipped files as they are: the kinds, and every example, as docs/operator.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.control_plane.plane import ControlPlane
from psr_operator.cli import main

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yaml") if "\napiVersion: psr.dev/" in path.read_text())
"""Those of our kinds; the others (Argo CD's, Flux's) are tests/gitops's."""
PAGE = (ROOT / "docs" / "operator.md").read_text()


def test_kubectl_applies_the_kinds(crds: ControlPlane) -> None:
    assert "kubectl apply --server-side -f crds/" in PAGE
    output = crds.ctl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", str(ROOT / "crds"))
    assert output.count("serverside-applied") == len(list((ROOT / "crds").glob("*.yaml")))


@pytest.mark.parametrize("manifest", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_kubectl_applies_an_example_and_again(manifest: Path, crds: ControlPlane, namespace: str) -> None:
    """The second time changes nothing: generations stay."""
    for _ in range(2):
        crds.ctl("apply", "-n", namespace, "-f", str(manifest))
    generations = crds.ctl("get", "psr", "-n", namespace, "-o", "jsonpath={.items[*].metadata.generation}")
    assert set(generations.split()) == {"1"}


def test_the_page_names_fields_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "StepDPOJob.spec.pod"]) == 0
    assert "nodeSelector" in capsys.readouterr().out


def test_the_page_names_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["operator", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"--(?:runtime|inference|watch|lease|allow|port|namespace)[a-z-]*", PAGE))
    assert named
    assert named <= options
