"""Who may talk to whom under the chart's NetworkPolicies: every pair of pods that matter, by name.

The pods carry the labels that the operator renders and the chart gives its own. A NetworkPolicy cannot say "of the same
Job", so ranks of two training Jobs of a namespace reach each other; nobody else reaches them but the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.chart.helm import NAMESPACE, Helm, one
from tests.chart.policies import Address, Cluster, Endpoint, Pod
from tests.render.samples import Sample, samples

Values = dict[str, Any]
Port = tuple[int, str]

STORAGE = Address("s3", "10.0.64.9")
APISERVER = Address("apiserver", "10.1.0.10")
INTERNET = Address("internet", "203.0.113.7")
NODE = Address("its node", "10.1.0.20", node=True)
DNS = Pod("dns", "kube-system", "10.244.0.2", {"k8s-app": "kube-dns"})
PROMETHEUS = Pod("prometheus", "monitoring", "10.244.0.3", {"app.kubernetes.io/name": "prometheus"})
STRANGER = Pod("stranger", "team-a", "10.244.1.99", {"app": "shell"})
FAR_STRANGER = Pod("far stranger", "apps", "10.244.9.99", {"app": "shell"})

VALUES: Values = {
    "watchNamespaces": ["team-a", "team-b"],
    "networkPolicies": {
        "enabled": True,
        "apiServer": {"to": [{"ipBlock": {"cidr": "10.1.0.10/32"}}]},
        "storage": {"to": [{"ipBlock": {"cidr": "10.0.64.0/20"}}]},
        "metrics": {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]},
    },
}

ASKED: dict[str, list[Port]] = {
    "operator": [(8080, "TCP"), (22, "TCP")],
    "stage": [(8090, "TCP"), (29500, "TCP"), (40000, "UDP")],
    "server": [(8000, "TCP"), (8001, "TCP"), (22, "TCP")],
    "dns": [(53, "UDP"), (53, "TCP"), (9153, "TCP")],
    "other": [(443, "TCP"), (80, "TCP"), (6443, "TCP"), (8001, "TCP"), (8090, "TCP"), (53, "UDP")],
}
"""Ports that are tried, by what the destination is."""


def pods(sample: Sample, namespace: str, *ips: str) -> list[Pod]:
    """Pods of what the operator renders for a sample, as if its object stood in a namespace."""
    (template,) = [item["spec"]["template"] for item in sample.render() if "template" in item.get("spec", {})]
    (container,) = template["spec"]["containers"]
    ports = {item["name"]: item["containerPort"] for item in container["ports"]}
    return [Pod(f"{namespace} {ip}", namespace, ip, template["metadata"]["labels"], ports) for ip in ips]


def everybody(objects: list[dict[str, Any]]) -> dict[str, Endpoint]:
    """All who may want to talk, by a name that says what they are."""
    kinds = samples()
    sft, dpo = kinds["sft"], kinds["step-dpo"]
    assert sft.wanted.name != dpo.wanted.name, "two Jobs"
    labels = template_of(objects)["metadata"]["labels"]
    endpoints: dict[str, Endpoint] = {
        "operator": Pod("operator", NAMESPACE, "10.244.7.1", labels),
        "impostor": Pod("impostor", "apps", "10.244.9.1", labels),
    }
    for letter, subnet in (("a", 1), ("b", 2)):
        namespace = f"team-{letter}"
        (endpoints[f"search {letter}"],) = pods(kinds["search"], namespace, f"10.244.{subnet}.1")
        endpoints[f"sft {letter} 0"], endpoints[f"sft {letter} 1"] = pods(
            sft, namespace, f"10.244.{subnet}.2", f"10.244.{subnet}.3"
        )
        (endpoints[f"dpo {letter}"],) = pods(dpo, namespace, f"10.244.{subnet}.4")
        (endpoints[f"server {letter}"],) = pods(kinds["server"], namespace, f"10.244.{subnet}.5")
    for other in (DNS, PROMETHEUS, STRANGER, FAR_STRANGER, STORAGE, APISERVER, INTERNET, NODE):
        endpoints[other.name] = other
    return endpoints


def template_of(objects: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The template of the operator's pods."""
    template: Mapping[str, Any] = one(objects, "Deployment")["spec"]["template"]
    return template


def connections(helm: Helm, values: Values) -> dict[tuple[str, str], set[Port]]:
    """The ports that are open, by source and destination, as far as one of the two is ours."""
    objects = helm.objects(values)
    cluster = Cluster([item for item in objects if item["kind"] == "NetworkPolicy"])
    all_of_them = everybody(objects)
    guarded = {name for name in all_of_them if what(name) in ("operator", "stage", "server")}
    ports_of = {}
    for source, here in all_of_them.items():
        for destination, there in all_of_them.items():
            if source != destination and {source, destination} & guarded:
                ports = {port for port in ASKED[what(destination)] if cluster.allows(here, there, *port)}
                ports_of[(source, destination)] = ports
    return {pair: ports for pair, ports in ports_of.items() if ports}


def what(name: str) -> str:
    """The key of `ASKED` for an endpoint."""
    word = name.split()[0]
    if word in ("search", "sft", "dpo"):
        return "stage"
    return word if word in ASKED else "other"


def expected() -> dict[tuple[str, str], set[Port]]:
    """The table for `VALUES`."""
    dns = {(53, "UDP"), (53, "TCP")}
    https, progress, api, control = ({(port, "TCP")} for port in (443, 8090, 8000, 8001))
    table: dict[tuple[str, str], set[Port]] = {
        ("operator", "apiserver"): {(443, "TCP"), (6443, "TCP")},
        ("operator", "dns"): dns,
        ("prometheus", "operator"): {(8080, "TCP")},
        ("its node", "operator"): set(ASKED["operator"]),
        ("operator", "its node"): set(ASKED["other"]),
    }
    for letter in "ab":
        server = f"server {letter}"
        training = [f"sft {letter} 0", f"sft {letter} 1", f"dpo {letter}"]
        stages = [f"search {letter}", *training]
        for pod in (*stages, server):
            table[(pod, "dns")] = dns
            table[(pod, "s3")] = https
            table[("its node", pod)] = set(ASKED[what(pod)])
            table[(pod, "its node")] = set(ASKED["other"])
        for stage in stages:
            table[(stage, server)] = api
            table[("operator", stage)] = progress
            table[("prometheus", stage)] = progress
        for rank in training:
            table |= {(rank, other): set(ASKED["stage"]) for other in training if other != rank}
        table[("operator", server)] = control
    return table


def test_nobody_talks_to_anybody_but_as_in_the_table(helm: Helm) -> None:
    assert connections(helm, VALUES) == expected()


def test_without_policies_everybody_does(helm: Helm) -> None:
    open_network = connections(helm, {"watchNamespaces": ["team-a", "team-b"]})
    assert open_network[("internet", "server a")] == set(ASKED["server"])
    assert open_network[("stranger", "sft a 0")] == set(ASKED["stage"])
    assert open_network[("server b", "internet")] == set(ASKED["other"])


@pytest.mark.parametrize(
    ("more", "opened", "closed"),
    [
        (
            {"modelHub": {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}},
            {(pod, "internet"): {(443, "TCP")} for pod, other in expected() if other == "s3"},
            set(),
        ),
        (
            {"serverClients": {"from": [{"podSelector": {"matchLabels": {"app": "shell"}}}]}},
            {("stranger", "server a"): {(8000, "TCP")}},
            set(),
        ),
        (
            {"serverPorts": [8000, 22]},
            {pair: {(8000, "TCP"), (22, "TCP")} for pair, ports in expected().items() if ports == {(8000, "TCP")}},
            set(),
        ),
        (
            {"storage": {"to": []}},
            {},
            {(pod, "s3") for pod, other in expected() if other == "s3"},
        ),
        (
            {"metrics": {"from": []}},
            {},
            {pair for pair in expected() if pair[0] == "prometheus"},
        ),
    ],
    ids=["model hub", "clients of servers", "ports of servers", "no storage", "no metrics"],
)
def test_what_a_value_opens_and_closes(
    helm: Helm, more: Values, opened: dict[tuple[str, str], set[Port]], closed: set[tuple[str, str]]
) -> None:
    opened_ports = connections(helm, {**VALUES, "networkPolicies": {**VALUES["networkPolicies"], **more}})
    assert opened_ports == {pair: ports for pair, ports in {**expected(), **opened}.items() if pair not in closed}


def test_a_namespace_that_is_not_named_is_left_alone(helm: Helm) -> None:
    ports_of = connections(helm, {**VALUES, "networkPolicies": {**VALUES["networkPolicies"], "namespaces": ["team-a"]}})
    assert ports_of[("internet", "server b")] == set(ASKED["server"])
    assert ("internet", "server a") not in ports_of
    assert ("search b", "server a") not in ports_of


def test_an_operator_of_the_whole_cluster_asks_the_pods_of_every_namespace(helm: Helm) -> None:
    values = {"networkPolicies": {**VALUES["networkPolicies"], "namespaces": ["team-a"]}}
    ports_of = connections(helm, values)
    assert ports_of[("operator", "search a")] == ports_of[("operator", "search b")] == {(8090, "TCP")}
    assert ports_of[("operator", "server b")] == {(8001, "TCP")}
