"""The role that the chart ships holds no right that the operator does not use: the audit logs of all tests here tell.

It begins after the others of this folder (`tests/suite_order.py`), and waits for those that other workers run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.plane import ControlPlane
from harness.operator_process import HOME, read_rules
from tests.suite_order import ended_tests, shared_folder

MODULES = {path.name for path in Path(__file__).parent.glob("test_*.py")}
OTHERS_SECONDS = 600.0


def audit_logs(own: Path, request: pytest.FixtureRequest) -> list[Path]:
    """The audit logs of the control planes of all workers, once every other test of this folder has ended."""
    folder = shared_folder(request.config)
    if folder is None:
        return [own]
    others = {item.nodeid for item in request.session.items if item.path.name in MODULES - {Path(__file__).name}}
    deadline = time.monotonic() + OTHERS_SECONDS
    while left := others - ended_tests(folder):
        assert time.monotonic() < deadline, f"still running on other workers: {sorted(left)}"
        time.sleep(0.2)
    return [*folder.glob(f"*/{own.parent.name}/{own.name}")]


def used(logs: list[Path]) -> Iterator[tuple[str, str, str]]:
    """What operators were allowed and did: API group, resource (with subresource), verb."""
    for log in logs:
        with open(log, encoding="utf-8") as lines:
            for line in lines:
                event: dict[str, Any] = json.loads(line)
                if not event["user"]["username"].startswith(f"system:serviceaccount:{HOME}:operator-"):
                    continue
                about = event.get("objectRef")
                if about is None or event["annotations"].get("authorization.k8s.io/decision") != "allow":
                    continue
                resource = about["resource"] + (f"/{about['subresource']}" if about.get("subresource") else "")
                yield about.get("apiGroup", ""), resource, event["verb"]


@pytest.mark.parametrize("name", ["rules.yaml", "lease-rules.yaml"])
def test_every_right_of_the_role_is_used(plane: ControlPlane, name: str, request: pytest.FixtureRequest) -> None:
    if plane.audit is None:
        pytest.skip("a cluster that is not ours keeps its audit log to itself")
    ran = {item.path.name for item in request.session.items}
    if not ran >= MODULES:
        pytest.skip(f"needs the audit log of all tests of this folder; missing: {', '.join(sorted(MODULES - ran))}")
    requests = set(used(audit_logs(plane.audit, request)))
    idle = []
    for rule in read_rules(name):
        for group in rule["apiGroups"]:
            of_rule = [
                (resource, verb) for g, resource, verb in requests if g == group and resource in rule["resources"]
            ]
            idle += [f"{group}/{resource}" for resource in rule["resources"] if resource not in {r for r, _ in of_rule}]
            idle += [
                f"{group}/{rule['resources']} {verb}" for verb in rule["verbs"] if verb not in {v for _, v in of_rule}
            ]
    assert idle == [], "no operator of these tests used this"
