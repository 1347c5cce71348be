"""NetworkPolicies read as Kubernetes defines them: who may open a connection to whom.

For tests of rendered policies where no network enforces them. An address that belongs to a pod counts for an `ipBlock`
too; Kubernetes leaves that to the network, and this is the reading that opens more.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["Ingress", "Egress"]
Rules = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod.

    Attributes:
        ports: named ports of its containers.
    """

    name: str
    namespace: str
    ip: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    """What is no pod of the cluster.

    Attributes:
        node: whether it is the node on which the other side runs: kubelet's probes come from there.
    """

    name: str
    ip: str
    node: bool = False


Endpoint = Pod | Address


@dataclass(frozen=True)
class Cluster:
    """Policies, and the labels of namespaces. Every namespace has its name as a label, as the apiserver sees to it."""

    policies: Sequence[Rules]
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def allows(self, source: Endpoint, destination: Endpoint, port: int, protocol: str = "TCP") -> bool:
        """Whether a connection may be opened: the source's policies let it out and the destination's let it in."""
        if source == destination:
            return True  # no policy keeps a pod from itself
        return self._passes("Egress", source, destination, destination, port, protocol) and self._passes(
            "Ingress", destination, source, destination, port, protocol
        )

    def _passes(
        self, direction: Direction, pod: Endpoint, peer: Endpoint, destination: Endpoint, port: int, protocol: str
    ) -> bool:
        if not isinstance(pod, Pod) or (isinstance(peer, Address) and peer.node):
            return True
        of_pod = [item for item in self.policies if _selects(item, pod) and direction in policy_types(item["spec"])]
        return not of_pod or any(
            self._rule_matches(rule, direction, policy, peer, destination, port, protocol)
            for policy in of_pod
            for rule in policy["spec"].get(direction.lower()) or ()
        )

    def _rule_matches(
        self,
        rule: Rules,
        direction: Direction,
        policy: Rules,
        peer: Endpoint,
        destination: Endpoint,
        port: int,
        protocol: str,
    ) -> bool:
        peers = rule.get("from" if direction == "Ingress" else "to") or ()
        ports = rule.get("ports") or ()
        namespace = policy["metadata"]["namespace"]
        return (not peers or any(self._is_peer(item, namespace, peer) for item in peers)) and (
            not ports or any(_is_port(item, destination, port, protocol) for item in ports)
        )

    def _is_peer(self, wanted: Rules, namespace: str, peer: Endpoint) -> bool:
        """Whether one entry of `from` or `to` means this peer.

        Raises:
            ValueError: the entry names nothing, which the apiserver refuses.
        """
        if wanted.get("ipBlock") is not None:
            return _within(wanted["ipBlock"], peer.ip)
        if not {"namespaceSelector", "podSelector"} & set(wanted):
            raise ValueError(f"a peer without a selector in {namespace}: {wanted}")
        if not isinstance(peer, Pod):
            return False
        of_namespace = wanted.get("namespaceSelector")
        if of_namespace is None:
            right_namespace = peer.namespace == namespace
        else:
            right_namespace = matches(of_namespace, self._labels_of(peer.namespace))
        return right_namespace and matches(wanted.get("podSelector") or {}, peer.labels)

    def _labels_of(self, namespace: str) -> Mapping[str, str]:
        return {**self.namespaces.get(namespace, {}), "kubernetes.io/metadata.name": namespace}


def policy_types(spec: Rules) -> Iterable[str]:
    """The directions in which a policy isolates. Unset: Ingress, and Egress where it has such rules."""
    named: Sequence[str] | None = spec.get("policyTypes")
    return named if named else ("Ingress", *(("Egress",) if spec.get("egress") else ()))


def matches(selector: Rules, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects labels. An empty one selects everything.

    Raises:
        ValueError: an operator that Kubernetes does not know.
    """
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(item, labels) for item in selector.get("matchExpressions") or ())


def _holds(expression: Rules, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case other:
            raise ValueError(f"operator {other} of a label selector")


def _selects(policy: Rules, pod: Pod) -> bool:
    same = policy["metadata"]["namespace"] == pod.namespace
    return same and matches(policy["spec"].get("podSelector") or {}, pod.labels)


def _is_port(wanted: Rules, destination: Endpoint, port: int, protocol: str) -> bool:
    """Whether one entry of `ports` means this port. A name is that of a port of the destination's containers."""
    if wanted.get("protocol", "TCP") != protocol:
        return False
    first = wanted.get("port")
    if first is None:
        return True
    if isinstance(first, str):
        return isinstance(destination, Pod) and destination.ports.get(first) == port
    return int(first) <= port <= int(wanted.get("endPort", first))


def _within(block: Rules, address: str) -> bool:
    ip = ipaddress.ip_address(address)
    inside = ip in ipaddress.ip_network(block["cidr"])
    return inside and not any(ip in ipaddress.ip_network(item) for item in block.get("except") or ())
