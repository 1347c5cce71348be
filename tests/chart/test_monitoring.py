"""Alerts and dashboard speak of figures that the operator and the stages have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import generate_latest

from psr_operator.controller.metrics import Metrics
from psr_runtime.progress import Progress
from tests.chart.generated import CHART
from tests.chart.helm import Helm, one
from tests.chart.test_chart_golden import VALUES
from tests.render.samples import samples

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
OTHERS = {"up", "kube_pod_container_status_restarts_total"}
"""Figures of Prometheus and of kube-state-metrics."""


def figures() -> set[str]:
    """Names of the series of the operator and of a stage."""
    metrics = Metrics()
    metrics.failures.labels("SFTJob")
    metrics.writes.labels("create")
    metrics.objects.labels("SFTJob")
    metrics.answers.labels("team")
    progress = Progress("search")
    progress.start(10, "questions")
    progress.advance(1)
    text = generate_latest(metrics.registry).decode() + progress._metrics().decode()
    return set(re.findall(r"^(psr_\w+)(?:\{| )", text, re.MULTILINE))


def alerts(helm: Helm) -> list[dict[str, Any]]:
    (group,) = one(helm.objects(VALUES["everything"]), "PrometheusRule")["spec"]["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> Iterator[str]:
    """Of the dashboard's panels."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def named(expression: str) -> set[str]:
    """The series that an expression names: words before braces or brackets, outside of them."""
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^]]*\]", " ", expression)
    return set(re.findall(r"\b(?:psr|kube)_\w+|\bup\b", bare))


def test_alerts_name_figures_that_exist(helm: Helm) -> None:
    for alert in alerts(helm):
        assert named(alert["expr"]), alert["alert"]
        assert named(alert["expr"]) <= figures() | OTHERS, alert["alert"]


def test_the_dashboard_names_figures_that_exist_and_every_one_of_the_operators_is_on_it() -> None:
    shown = set().union(*map(named, expressions()))
    assert shown <= figures()
    missing = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in figures() - shown}
    assert missing - {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in shown} == set()


def test_alerts_look_at_this_release_and_say_what_to_do(helm: Helm) -> None:
    for alert in alerts(helm):
        assert 'namespace="psr-system"' in alert["expr"], alert["alert"]
        assert "loop-operator" in alert["expr"], alert["alert"]
        assert alert["labels"] == {"severity": alert["labels"]["severity"], "team": "platform"}
        assert set(alert["annotations"]) == {"summary", "description"}


def test_the_job_of_the_alerts_is_the_service_that_is_scraped(helm: Helm) -> None:
    objects = helm.objects(VALUES["everything"])
    service = one(objects, "Service")
    assert all(
        f'job="{service["metadata"]["name"]}"' in item["expr"] for item in alerts(helm) if "psr_" in item["expr"]
    )
    monitor = one(objects, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [item["port"] for item in monitor["endpoints"]] == [item["name"] for item in service["spec"]["ports"]]


def test_stages_are_scraped_by_the_labels_and_the_port_that_they_have(helm: Helm) -> None:
    (job,) = samples()["search"].render()
    pod = job["spec"]["template"]
    monitor = one(helm.objects(VALUES["everything"]), "PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert set(monitor["podTargetLabels"]) <= set(pod["metadata"]["labels"])
    ports = {item["name"] for item in pod["spec"]["containers"][0]["ports"]}
    assert {item["port"] for item in monitor["podMetricsEndpoints"]} <= ports
    assert monitor["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}


def test_the_dashboard_is_found_by_grafana_and_comes_through_unchanged(helm: Helm) -> None:
    config_map = one(helm.objects({"metrics": {"dashboard": {"enabled": True}}}), "ConfigMap")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config_map["data"]["psr.json"]) == DASHBOARD


@pytest.mark.parametrize(
    "panel", [item for item in DASHBOARD["panels"] if item["type"] != "row"], ids=lambda p: p["title"]
)
def test_a_panel(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["targets"]
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24
    others = [item["gridPos"] for item in DASHBOARD["panels"] if item is not panel]
    assert not [other for other in others if overlap(place, other)]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )
