"""Values: wrong ones are refused and the field is named; every one is described; their tables are up to date."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.chart.generated import SCHEMA, TABLE, table, values, written_schema
from tests.chart.helm import Helm, one

CIDR = {"ipBlock": {"cidr": "10.0.0.0/8"}}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"watchNamespace": ["a"]}, "watchNamespace"),
        ({"crds": {"kept": True}}, "kept"),
        ({"images": {"runtime": {"image": "x"}}}, "image"),
        ({"images": {"runtime": {"digest": "latest"}}}, "/images/runtime/digest"),
        ({"images": {"runtime": {"repository": "registry.example/psr:1"}}}, "/images/runtime/repository"),
        ({"images": {"inference": {"bringRuntime": "yes"}}}, "/images/inference/bringRuntime"),
        ({"images": {"pullPolicy": "Sometimes"}}, "/images/pullPolicy"),
        ({"watchNamespaces": "team"}, "/watchNamespaces"),
        ({"watchNamespaces": ["Team"]}, "/watchNamespaces/0"),
        ({"operator": {"replicas": "2"}}, "/operator/replicas"),
        ({"operator": {"leaseSeconds": 1}}, "/operator/leaseSeconds"),
        ({"operator": {"resources": {"request": {}}}}, "request"),
        ({"stageServiceAccounts": [{"namespaces": ["a"]}]}, "name"),
        ({"stageServiceAccounts": ["storage"]}, "/stageServiceAccounts/0"),
        ({"podDefaults": {"gpus": {}}}, "gpus"),
        ({"podDefaults": {"gpu": {"hostNetwork": True}}}, "hostNetwork"),
        ({"podDefaults": {"gpu": {"tolerations": [{"effect": "NoWay"}]}}}, "/podDefaults/gpu/tolerations/0/effect"),
        ({"podDefaults": {"cpu": {"nodeSelector": {"a b": "c"}}}}, "a b"),
        ({"priorityClasses": {"classes": [{"name": "x", "value": 2000000000}]}}, "/priorityClasses/classes/0/value"),
        ({"metrics": {"dashboards": {}}}, "dashboards"),
        ({"metrics": {"prometheusRule": {"childDelaySeconds": 60}}}, "childDelaySeconds"),
        ({"networkPolicies": {"storage": {"cidrs": ["10.0.0.0/8"]}}}, "cidrs"),
        ({"networkPolicies": {"storage": {"to": [{}]}}}, "/networkPolicies/storage/to/0"),
        ({"networkPolicies": {"storage": {"to": [CIDR | {"podSelector": {}}]}}}, "/networkPolicies/storage/to/0"),
        ({"networkPolicies": {"storage": {"to": [CIDR], "ports": []}}}, "/networkPolicies/storage/ports"),
        ({"networkPolicies": {"serverPorts": []}}, "/networkPolicies/serverPorts"),
    ],
    ids=lambda item: json.dumps(item) if isinstance(item, dict) else None,
)
def test_a_wrong_value_is_refused_by_name(helm: Helm, values: dict[str, Any], named: str) -> None:
    said = helm.refused(values)
    assert "values don't meet the specifications of the schema" in said
    assert named in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stageServiceAccounts": [{"name": "storage"}]}, "storage: name the namespaces it is made in"),
        (
            {"watchNamespaces": ["a"], "stageServiceAccounts": [{"name": "storage", "namespaces": ["b"]}]},
            "storage: namespace b is not among watchNamespaces",
        ),
        ({"networkPolicies": {"enabled": True}}, "networkPolicies.namespaces: name the namespaces to be guarded"),
        ({"metrics": {"service": False, "serviceMonitor": {"enabled": True}}}, "needs metrics.service: true"),
    ],
    ids=lambda item: item if isinstance(item, str) else None,
)
def test_values_that_do_not_fit_together_are_refused(helm: Helm, values: dict[str, Any], said: str) -> None:
    assert said in helm.refused(values)


def test_a_stage_account_is_made_in_every_namespace_and_allowed_once(helm: Helm) -> None:
    annotations = {"iam.gke.io/gcp-service-account": "storage@project.iam.gserviceaccount.com"}
    objects = helm.objects(
        {
            "stageServiceAccounts": [{"name": "storage", "namespaces": ["a", "b"], "annotations": annotations}],
            "allowedServiceAccounts": ["storage", "another"],
        }
    )
    accounts = [item for item in objects if item["kind"] == "ServiceAccount" and item["metadata"]["name"] == "storage"]
    assert [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in accounts] == [
        ("a", "storage"),
        ("b", "storage"),
    ]
    assert all(item["metadata"]["annotations"] == annotations for item in accounts)
    assert all(item["automountServiceAccountToken"] is False for item in accounts)
    arguments = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    allowed = [item for item in arguments if item.startswith("--allow-service-account")]
    assert allowed == ["--allow-service-account=another", "--allow-service-account=storage"]


def test_every_value_is_described() -> None:
    assert [item.path for item in values() if not item.text] == []


def test_the_table_of_values_is_up_to_date() -> None:
    if os.environ.get("PSR_WRITE_GOLDEN"):
        TABLE.write_text(table())
    assert TABLE.read_text() == table(), "PSR_WRITE_GOLDEN=1 pytest tests/chart/test_values.py writes it anew"


def test_pod_defaults_take_what_a_manifests_pod_takes() -> None:
    text = SCHEMA.read_text()
    if os.environ.get("PSR_WRITE_GOLDEN"):
        SCHEMA.write_text(written_schema(text))
    assert SCHEMA.read_text() == written_schema(text), "PSR_WRITE_GOLDEN=1 pytest tests/chart/test_values.py"


def test_every_value_has_a_place_in_the_schema_and_every_object_there_is_closed() -> None:
    schema = json.loads(SCHEMA.read_text())
    for item in values():
        place = schema
        for key in item.path.split("."):
            place = place["properties"][key]
            place = schema["$defs"][place["$ref"].rsplit("/", 1)[1]] if "$ref" in place else place
    loose = [where for where, item in objects_in(schema) if "additionalProperties" not in item]
    free = {"global", "affinity", "tolerations", "topologySpreadConstraints"}
    assert {where.rsplit("/", 1)[-1] for where in loose} <= free, loose


def objects_in(schema: Any, where: str = "") -> list[tuple[str, dict[str, Any]]]:
    """The schemas of objects, each with the name of its field."""
    objects = []
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            objects.append((where, schema))
        for key, value in schema.items():
            inside = where if key in ("items", "properties", "$defs", "oneOf") else f"{where}/{key}"
            objects += objects_in(value, inside)
    if isinstance(schema, list):
        for value in schema:
            objects += objects_in(value, where)
    return objects
