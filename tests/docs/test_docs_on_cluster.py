"""The commands of the pages on a real apiserver, one after the other, as a reader would type them.

There is no operator and no pod: what waits for one, or reads what one makes, is left out by name.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from harness.control_plane.plane import ControlPlane
from tests.docs.pages import ROOT, Command, blocks, commands_of

LEFT_OUT = {
    "logs": "needs pods",
    "port-forward": "needs pods",
    "wait": "needs an operator",
    "answers-key": "a Secret that the operator makes",
    "psr-system": "the operator's namespace",
    "-w": "watches for ever",
    "namespace": "the test has made one",
    "NODE": "a node that died",
    "POD": "a pod on it",
}
RUNS = ("run-1.5b.yaml", "step-dpo.yaml")


@pytest.mark.parametrize(("page", "count"), [("install.md", 3), ("first-run.md", 5), ("day-2.md", 13)])
def test_kubectl_does_what_the_page_says(page: str, count: int, crds: ControlPlane, namespace: str) -> None:
    done = 0
    if page != "first-run.md":
        start_runs(crds, namespace)
    for block in blocks(ROOT / "docs" / page):
        if block.language == "yaml" and "apiVersion: psr.dev/" in block.text:
            text = block.text.replace("namespace: team", f"namespace: {namespace}")
            crds.ctl("apply", "-f", "-", stdin=text)
        for command in commands_of(block):
            words = command.words
            if words[0] != "kubectl" or LEFT_OUT.keys() & set(words):
                continue
            run(crds, command, namespace)
            done += 1
            if words[1] == "delete":
                start_runs(crds, namespace)
    assert done >= count, "commands are left out by name, not by mistake"


def run(plane: ControlPlane, command: Command, namespace: str) -> None:
    """Run it in this test's namespace. A warning (an unknown field, say) is a fault."""
    words = [namespace if word == "team" else word for word in command.words[1:]]
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    ended = subprocess.run(
        [str(plane.kubectl), f"--kubeconfig={plane.kubeconfig}", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, f"{command.place}: {command.text}\n{ended.stderr}"
    assert "Warning" not in ended.stderr, f"{command.place}: {command.text}\n{ended.stderr}"


def start_runs(plane: ControlPlane, namespace: str) -> None:
    """The run that the page lives with, and a job of its own."""
    for name in RUNS:
        plane.ctl("apply", "-n", namespace, "-f", str(ROOT / "examples" / "h100" / name))


def test_the_objects_of_the_pages_are_those_of_the_examples() -> None:
    pages = "".join((ROOT / "docs" / page).read_text() for page in ("first-run.md", "day-2.md"))
    manifests = "".join((ROOT / "examples" / "h100" / name).read_text() for name in RUNS)
    for name in re.findall(r"kubectl (?:get|patch|describe|delete) (?:srr|sdj) (\S+?)[` ]", pages):
        assert name == "-n" or f"\n  name: {name}\n" in manifests, name
