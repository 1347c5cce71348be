"""The rights of the operator in the namespaces that it serves: to its kinds, the back ends', and servers' objects.

`make crds` writes the rules to charts/psr/files/rules.yaml, where the chart's roles and the tests take them from; the
tests fail for a right that nothing uses. A back end's line is the `verbs` of its kinds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psr_operator.api import GROUP, KINDS
from psr_operator.backends import load_all
from psr_operator.backends.base import Backend, ObjectKind
from psr_operator.controller import paths
from psr_operator.controller.informer import DEPLOYMENT, POD

ONLY_USERS_MAKE = ("SelfRewardRun",)
"""Kinds that are nobody's children."""
HEAD = """\
# What the operator may do in the namespaces that it serves: the rules of its ClusterRole or Roles. `make crds` writes
# them from operator/psr_operator/controller/rbac.py. Tests run the operator under exactly these, and fail for one that
# nothing uses.
"""
WIDTH = 110


@dataclass(frozen=True)
class Rule:
    """One rule of a role.

    Attributes:
        purpose: why the operator needs it, where that is not plain.
    """

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    purpose: str = ""

    def to_json(self) -> dict[str, Any]:
        """As Kubernetes takes it."""
        return {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}

    def to_yaml(self) -> str:
        """The same as an item of a list of YAML."""
        purpose = f"  # {self.purpose}" if self.purpose else ""
        resources = f" [{', '.join(self.resources)}]"
        if len(resources) > WIDTH:
            resources = "".join(f"\n    - {name}" for name in self.resources)
        group = self.group or '""'
        return f"- apiGroups: [{group}]{purpose}\n  resources:{resources}\n  verbs: [{', '.join(self.verbs)}]\n"


def rules(backends: Sequence[Backend[Any]]) -> list[Rule]:
    """Every rule, for an operator with these back ends."""
    return [*_own(), *(_of_kind(kind) for backend in backends for kind in backend.kinds), *_servers()]


def _own() -> Iterator[Rule]:
    children = tuple(kind.plural for name, kind in KINDS.items() if name not in ONLY_USERS_MAKE)
    yield Rule(GROUP, tuple(kind.plural for kind in KINDS.values()), ("get", "list", "watch"))
    yield Rule(GROUP, children, ("create", "patch"), "the children that runs and iterations make")
    yield Rule(GROUP, tuple(f"{kind.plural}/status" for kind in KINDS.values()), ("patch",))


def _servers() -> Iterator[Rule]:
    """What servers need, and pods and events, which all have."""
    yield _of_kind(DEPLOYMENT)
    yield _named(("ReplicaSet",), ("get",), "the link from a server's pod to its Deployment")
    yield _of_kind(POD)
    yield _named(("Service", "ConfigMap"), ("get", "create", "update"))
    yield _named(("Secret",), ("get", "create"), "bearer keys of servers")
    yield _named(("PodDisruptionBudget",), ("get", "create", "update"))
    yield _named(("Event",), ("create", "list"), "why a Job has no pod or a pod no volume is said only there")


def _of_kind(kind: ObjectKind) -> Rule:
    return Rule(_group(kind.api_version), (kind.plural,), kind.verbs)


def _named(kinds: tuple[str, ...], verbs: tuple[str, ...], purpose: str = "") -> Rule:
    (group,) = {_group(paths.KINDS[kind][0]) for kind in kinds}
    return Rule(group, tuple(paths.KINDS[kind][1] for kind in kinds), verbs, purpose)


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def rendered() -> str:
    """The file of the chart."""
    return HEAD + "".join(rule.to_yaml() for rule in rules(load_all()))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(rendered())
