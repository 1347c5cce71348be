"""Every rule (CEL) of every kind, on a real apiserver: what it alone refuses, and what is admitted without it.

The cases are made from the definitions, so that a new field has its cases too; a rule that has none is an error.

Which rule refuses is found by halves. With every rule in force a case is refused with its rule's message and no other.
Then half of the rules are deleted, and then the other half, once for each binary digit of a rule's number: the rule's
first case must be admitted whenever the rule is deleted. As any other rule stands in at least one of those, none of
them refuses it. At last no rule is left, and every case is admitted.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from harness.control_plane.plane import ControlPlane
from psr_operator.api import KINDS
from tests.api.client import Connection
from tests.api.definitions import (
    Path,
    alternatives,
    definition,
    example,
    get,
    manifest,
    node_at,
    plural,
    put,
    rules_of,
    schema_of,
    url,
    values,
    walk,
    without,
)

GROUP = "rules.psr.dev"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SECONDS = 20.0


@dataclass
class Case:
    """An object that a rule refuses: `after` as a change of `before`, or as a new object where that is None."""

    rule: int
    message: str
    before: dict[str, Any] | None
    after: dict[str, Any]


def cases(kind: str) -> list[Case]:
    """At least one case for each rule of a kind."""
    listed = []
    for number, (path, rule, message) in enumerate(rules_of(schema_of(definition(kind)))):
        pairs = list(_pairs(kind, path, rule))
        assert pairs, f"{kind} {'.'.join(path)}: no case for the rule {rule}"
        listed += [Case(number, message, *copy.deepcopy(pair)) for pair in pairs]
    for index, case in enumerate(listed):
        for item in (case.before, case.after):
            if item is not None and item["metadata"]["name"] == "one":
                item["metadata"]["name"] = f"case-{index}"
    return listed


def _pairs(kind: str, path: Path, rule: str) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any]]]:
    schema = schema_of(definition(kind))
    node = node_at(schema, path)
    if not path:  # names: as Kubernetes wants them, and yet not ours
        limit = int(re.findall(r"<= (\d+)", rule)[0])
        for name in ("1a", "a.b", "a" * (limit + 1)):
            yield None, manifest(kind, name=name, group=GROUP)
    elif "oldSelf.all(i, v" in rule:  # append-only
        before = manifest(kind, (*path, "[]"), group=GROUP)
        first, second = get(before, path)[0], example(node["items"])
        second["questions"] = first["questions"] + 1
        before = put(before, path, [first, second])
        for after in ([first], [second, first], [first, first], [second, first, second]):
            yield before, put(before, path, after)
    elif "oldSelf.exists(b" in rule:  # the same names
        before = manifest(kind, (*path, "[]"), group=GROUP)
        (item,) = get(before, path)
        other = {**item, node["x-kubernetes-list-map-keys"][0]: "other"}
        for after in ([], [other], [item, other]):
            yield before, put(before, path, after)
    elif "oldSelf" in rule:  # immutable
        name = re.findall(r"oldSelf\.(\w+)", rule)[0]
        at = (*path, name)
        before = manifest(kind, at, group=GROUP)
        for choice in alternatives(node):
            if "||" in rule and choice not in get(before, path):
                before = put(before, (*path, choice), example(node["properties"][choice]))
        if f"self.{name} == oldSelf.{name}" in rule.replace(f"has(oldSelf.{name})", ""):
            old = get(before, at)
            yield before, put(before, at, next(new for new in values(node_at(schema, at)) if new != old))
        if f"has(self.{name})" in rule:
            yield before, without(before, at)
            yield without(before, at), before
    elif rule.startswith("self.all(key"):
        after = manifest(kind, (*path, "*"), group=GROUP)
        value = get(after, (*path, "*"))
        for key in ("-a", "a/b/c", "a" * 64, "a" * 320 + "/b"):
            yield None, put(after, path, {key: value})
    elif "volume.mountPath" in rule:
        after = manifest(kind, (*path, "volume"), group=GROUP)
        for uri, mount in (("file:///b/x", "/a"), ("file:///ab/x", "/a"), ("file:///a", "/a/b")):
            yield None, put(put(after, (*path, "uri"), uri), (*path, "volume", "mountPath"), mount)
    elif "retention" in rule:
        after = manifest(kind, (*path, "storage", "retention"), group=GROUP)
        yield None, put(after, (*path, "storage", "retention"), "Best")
    elif names := alternatives(node):
        after = manifest(kind, path, group=GROUP)
        (present,) = set(names) & set(get(after, path))
        yield None, without(after, (*path, present))
        if "||" not in rule:
            other = next(name for name in names if name != present)
            yield None, put(after, (*path, other), example(node["properties"][other]))


def _halved(kind: str, deleted: set[int]) -> dict[str, Any]:
    """A kind's definition in a group of its own, without some of its rules."""
    changed = copy.deepcopy(definition(kind))
    changed["metadata"]["name"] = f"{plural(kind)}.{GROUP}"
    changed["spec"]["group"] = GROUP
    number = 0
    for _, node in walk(schema_of(changed)):
        rules = node.pop("x-kubernetes-validations", [])
        kept = [rule for index, rule in enumerate(rules, number) if index not in deleted]
        number += len(rules)
        if kept:
            node["x-kubernetes-validations"] = kept
    return changed


def _install(connection: Connection, wanted: dict[str, Any]) -> None:
    path = f"{DEFINITIONS}/{wanted['metadata']['name']}?fieldManager=rules&force=true"
    code, answer = connection.send("PATCH", path, wanted, "application/apply-patch+yaml")
    assert code in (200, 201), answer


def _outcome(connection: Connection, kind: str, case: Case) -> list[str]:
    """`admitted`, or the messages of those who refuse."""
    verb, path = ("POST", url(kind, GROUP)) if case.before is None else ("PUT", _url_of(kind, case))
    code, answer = connection.send(verb, f"{path}?dryRun=All&fieldValidation=Strict", case.after)
    if code in (200, 201):
        return ["admitted"]
    return sorted(cause["message"] for cause in answer.get("details", {}).get("causes", [])) or [answer["message"]]


def _url_of(kind: str, case: Case) -> str:
    return f"{url(kind, GROUP)}/{case.after['metadata']['name']}"


def _eventually(connection: Connection, kind: str, expected: list[tuple[Case, str]]) -> None:
    """Wait until every case has the outcome that a definition just installed gives it: `admitted` or part of a message.

    The apiserver takes a definition up a moment after it has answered; once it has, every later case meets it.
    """
    deadline = time.monotonic() + SECONDS
    for case, wanted in expected:
        while True:
            outcome = _outcome(connection, kind, case)
            alone = outcome[0] if len(outcome) == 1 else ""
            if wanted in alone:
                break
            assert time.monotonic() < deadline, f"{kind}: {case.after}\nwanted {wanted}\nfound {outcome}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def connection(plane: ControlPlane) -> Iterator[Connection]:
    connection = Connection(plane)
    yield connection
    for kind in KINDS:
        connection.send("DELETE", f"{DEFINITIONS}/{plural(kind)}.{GROUP}")
    connection.close()


@pytest.mark.parametrize("kind", KINDS)
def test_each_rule_alone_refuses_its_cases(kind: str, connection: Connection) -> None:
    all_cases = cases(kind)
    _install(connection, _halved(kind, set()))
    deadline = time.monotonic() + SECONDS
    while connection.send("GET", url(kind, GROUP))[0] != 200:
        assert time.monotonic() < deadline, f"{kind} is not served"
        time.sleep(0.02)
    for case in all_cases:
        if case.before is not None:
            code, answer = connection.send("POST", f"{url(kind, GROUP)}?fieldValidation=Strict", case.before)
            assert code == 201, answer
            case.after["metadata"]["resourceVersion"] = answer["metadata"]["resourceVersion"]
    _eventually(connection, kind, [(case, case.message) for case in all_cases])
    rules, before = {case.rule for case in all_cases}, set[int]()
    firsts = list({case.rule: case for case in reversed(all_cases)}.values())
    halves = [
        (firsts, {rule for rule in rules if rule >> digit & 1 == value})
        for digit in range(max(rules).bit_length())
        for value in (0, 1)
    ]
    for tried, deleted in [*halves, (all_cases, rules)]:
        _install(connection, _halved(kind, deleted))
        admitted = [case for case in tried if case.rule in deleted]
        admitted.sort(key=lambda case: case.rule in before)  # first what the definition before this one refused
        _eventually(connection, kind, [(case, "admitted") for case in admitted])
        before = deleted


@pytest.mark.parametrize("kind", KINDS)
def test_messages_say_what_to_do(kind: str) -> None:
    """Each names a field or what is to be given, and none stands for two rules of one object."""
    for path, rule, message in rules_of(schema_of(definition(kind))):
        assert re.search(r"make a new object|give |begin |must be", message), f"{'.'.join(path)}: {rule}: {message}"


def test_operation_fields_beside_method_fields_stay_mutable(crds: ControlPlane, namespace: str) -> None:
    """Every operation field of every kind, on its way down through method fields, can be changed, set and unset."""
    connection = Connection(crds)
    changes = 0
    for kind in KINDS:
        immutable = {
            (*path, name)
            for path, rule, _ in rules_of(schema_of(definition(kind)))
            for name in re.findall(r"oldSelf\.(\w+)", rule)
        }
        for path, node in walk(schema_of(definition(kind))):
            leaf = path[:1] == ("spec",) and "properties" not in node and node.get("type") not in ("array", "object")
            of_a_pod = "*" in path or ("[]" in path and "evaluations" not in path)  # one model, in many places
            if not leaf or of_a_pod or path in immutable or _below_a_fixed_list(kind, path):
                continue
            before = manifest(kind, path, name=f"mutable-{changes}")
            code, answer = connection.send("POST", url(kind, namespace=namespace), before)
            assert code == 201, answer
            new = next(value for value in values(node) if value != get(before, path))
            answer["spec"] = put(before, path, new)["spec"]
            place = f"{url(kind, namespace=namespace)}/mutable-{changes}"
            code, answer = connection.send("PUT", f"{place}?dryRun=All", answer)
            assert code == 200, f"{'.'.join(path)}: {answer}"
            changes += 1
    connection.close()
    assert changes > 200


def _below_a_fixed_list(kind: str, path: Path) -> bool:
    """Whether a list above decides: what can only grow, and the names of a keyed list's items."""
    for end in range(1, len(path)):
        node = node_at(schema_of(definition(kind)), path[:end])
        if any("oldSelf" in rule["rule"] for rule in node.get("x-kubernetes-validations", [])) and "items" in node:
            key = node.get("x-kubernetes-list-map-keys", [""])[0]
            return not key or path[end + 1] == key
    return False
