"""The reading of NetworkPolicies itself, on what Kubernetes documents."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.policies import Address, Cluster, Pod, matches, policy_types

WEB = Pod("web", "shop", "10.0.0.1", {"app": "web"}, {"http": 8080})
DB = Pod("db", "shop", "10.0.0.2", {"app": "db"}, {"sql": 5432})
JOB = Pod("job", "batch", "10.0.1.1", {"app": "web"})
OUTSIDE = Address("outside", "203.0.113.7")
NAMESPACES = {"shop": {"tier": "front"}, "batch": {"tier": "back"}}
BACK = {"matchLabels": {"tier": "back"}}
EVERYWHERE: list[dict[str, Any]] = [{}]


def policy(selector: dict[str, Any], namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": {"podSelector": selector, **spec}}


def allows(policies: list[dict[str, Any]], *connection: Any) -> bool:
    return Cluster(policies, NAMESPACES).allows(*connection)


def into_db(*peers: dict[str, Any], ports: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """One policy that lets these into the database."""
    rule: dict[str, Any] = {"from": list(peers)} | ({"ports": ports} if ports else {})
    return [policy({"matchLabels": {"app": "db"}}, policyTypes=["Ingress"], ingress=[rule])]


def test_without_a_policy_everybody_may_talk_to_everybody() -> None:
    assert allows([], WEB, DB, 5432)
    assert allows([], OUTSIDE, WEB, 8080)
    assert allows([], WEB, OUTSIDE, 443)


def test_a_policy_without_rules_closes_its_direction_for_the_pods_that_it_selects() -> None:
    closed = [policy({"matchLabels": {"app": "db"}}, policyTypes=["Ingress"])]
    assert not allows(closed, WEB, DB, 5432)
    assert allows(closed, DB, WEB, 8080), "egress of db and ingress of web stay open"
    assert allows(closed, JOB, WEB, 8080)


def test_an_empty_selector_selects_every_pod_of_the_policys_namespace_and_of_no_other() -> None:
    closed = [policy({}, policyTypes=["Ingress", "Egress"])]
    assert not allows(closed, JOB, WEB, 8080)
    assert not allows(closed, WEB, OUTSIDE, 443)
    assert allows(closed, OUTSIDE, JOB, 80)


def test_both_ends_must_allow() -> None:
    into = into_db({"podSelector": {"matchLabels": {"app": "web"}}})
    out_of_web = policy({"matchLabels": {"app": "web"}}, policyTypes=["Egress"])
    assert allows(into, WEB, DB, 5432)
    assert not allows([*into, out_of_web], WEB, DB, 5432)
    opened = policy(
        {"matchLabels": {"app": "web"}},
        policyTypes=["Egress"],
        egress=[{"to": [{"podSelector": {}}], "ports": [{"port": 5432}]}],
    )
    assert allows([*into, out_of_web, opened], WEB, DB, 5432), "policies add up; none takes away"
    assert not allows([*into, out_of_web, opened], WEB, OUTSIDE, 443)


def shown(value: object) -> str:
    """The name of a parameter; a set in order, as every worker must give the same names."""
    return str(sorted(value)) if isinstance(value, set) else str(value)


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ({}, ["Ingress"]),
        ({"egress": EVERYWHERE}, ["Ingress", "Egress"]),
        ({"egress": []}, ["Ingress"]),
        ({"policyTypes": ["Egress"]}, ["Egress"]),
        ({"policyTypes": ["Egress"], "ingress": EVERYWHERE}, ["Egress"]),
    ],
)
def test_directions(spec: dict[str, Any], types: list[str]) -> None:
    assert list(policy_types(spec)) == types


@pytest.mark.parametrize(
    ("peer", "let_in"),
    [
        ({"podSelector": {}}, {"web"}),
        ({"podSelector": {"matchLabels": {"app": "web"}}}, {"web"}),
        ({"namespaceSelector": {}}, {"web", "job"}),
        ({"namespaceSelector": BACK}, {"job"}),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "batch"}}}, {"job"}),
        ({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}, set()),
        (
            {"namespaceSelector": BACK, "podSelector": {"matchLabels": {"app": "web"}}},
            {"job"},
        ),
        ({"ipBlock": {"cidr": "203.0.113.0/24"}}, {"outside"}),
        ({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["203.0.113.0/24"]}}, {"web", "job"}),
        ({"ipBlock": {"cidr": "::/0"}}, set()),
    ],
    ids=shown,
)
def test_who_a_peer_is(peer: dict[str, Any], let_in: set[str]) -> None:
    policies = into_db(peer)
    assert {item.name for item in (WEB, JOB, OUTSIDE) if allows(policies, item, DB, 5432)} == let_in


def test_selectors_of_one_peer_both_hold_and_peers_are_alternatives() -> None:
    both = into_db({"namespaceSelector": BACK, "podSelector": {"matchLabels": {"app": "x"}}})
    either = into_db({"namespaceSelector": BACK}, {"podSelector": {"matchLabels": {"app": "x"}}})
    assert not allows(both, JOB, DB, 5432)
    assert allows(either, JOB, DB, 5432)


@pytest.mark.parametrize("rule", [{}, {"from": []}, {"from": None, "ports": []}])
def test_a_rule_without_peers_and_ports_is_for_everybody(rule: dict[str, Any]) -> None:
    policies = [policy({}, policyTypes=["Ingress"], ingress=[rule])]
    assert allows(policies, OUTSIDE, DB, 5432)


@pytest.mark.parametrize(
    ("port", "allowed"),
    [
        ({"port": 5432}, {("TCP", 5432)}),
        ({"port": 5432, "protocol": "UDP"}, {("UDP", 5432)}),
        ({"protocol": "UDP"}, {("UDP", 5432), ("UDP", 5433), ("UDP", 5434)}),
        ({"port": 5432, "endPort": 5433}, {("TCP", 5432), ("TCP", 5433)}),
        ({"port": "sql"}, {("TCP", 5432)}),
        ({"port": "http"}, set()),
    ],
    ids=shown,
)
def test_ports(port: dict[str, Any], allowed: set[tuple[str, int]]) -> None:
    policies = into_db({"podSelector": {}}, ports=[port])
    asked = [(protocol, number) for protocol in ("TCP", "UDP") for number in (5432, 5433, 5434)]
    assert {item for item in asked if allows(policies, WEB, DB, item[1], item[0])} == allowed


def test_a_named_port_of_an_egress_rule_is_the_destinations() -> None:
    policies = [policy({}, policyTypes=["Egress"], egress=[{"to": [{"podSelector": {}}], "ports": [{"port": "sql"}]}])]
    assert allows(policies, WEB, DB, 5432)
    assert not allows(policies, DB, WEB, 5432), "web has no port of that name"


def test_what_no_policy_stops() -> None:
    closed = [policy({}, policyTypes=["Ingress", "Egress"])]
    assert allows(closed, WEB, WEB, 8080), "a pod from itself"
    assert allows(closed, Address("its node", "10.9.0.1", node=True), WEB, 8080), "kubelet's probes"


@pytest.mark.parametrize(
    ("operator", "values", "selected"),
    [
        ("In", ["web"], True),
        ("In", ["db"], False),
        ("NotIn", ["web"], False),
        ("NotIn", ["db"], True),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_expressions(operator: str, values: list[str], selected: bool) -> None:
    selector = {"matchExpressions": [{"key": "app", "operator": operator, "values": values}]}
    assert matches(selector, {"app": "web"}) is selected
    absent = operator in ("NotIn", "DoesNotExist")
    assert matches(selector, {}) is absent, "a label that is not there"


def test_what_the_apiserver_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="without a selector"):
        allows(into_db({}), WEB, DB, 5432)
    with pytest.raises(ValueError, match="Like"):
        matches({"matchExpressions": [{"key": "app", "operator": "Like"}]}, {"app": "web"})
