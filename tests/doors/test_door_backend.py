"""A back end of a test: Workloads are ConfigMaps, and whoever writes `outcome` into one has done its work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.control_plane.plane import ControlPlane
from harness.operator_process import grant, start_operator
from psr_operator.backends import base
from psr_operator.controller.rbac import rules
from psr_operator.planner.types import Phase, WorkloadState
from psr_operator.render.labels import LABEL_ATTEMPT, LABEL_WORKLOAD, metadata
from psr_operator.render.stage import stage_labels
from tests.controller.one_run import place_for

KIND = base.ObjectKind("v1", "ConfigMap", "configmaps")
SPEC = {"model": {"uri": "s3://bucket/m0"}, "ift": "s3://bucket/ift", "storage": {"uri": "s3://bucket/runs"}}


@dataclass(frozen=True)
class Facts(base.WorkloadFacts):
    outcome: str


class ConfigMaps:
    kinds = (KIND,)

    def objects(self, workload: Any, owner: Any, settings: Any) -> list[Any]:
        meta = metadata(workload.name, owner, stage_labels(workload, owner))
        return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"stage": workload.stage}}]

    def facts(self, raw: Any) -> Facts | None:
        meta, owner, outcome = raw["metadata"], base.owner_labels(raw), raw.get("data", {}).get("outcome", "")
        if owner is None or LABEL_WORKLOAD not in meta["labels"]:
            return None
        version, attempt = int(meta["resourceVersion"]), int(meta["labels"][LABEL_ATTEMPT])
        named = (meta["name"], meta["uid"], version, owner, base.controller_of(raw), attempt)
        return Facts(self, KIND, *named, 0, bool(outcome), "deletionTimestamp" in meta, outcome)

    def state(self, facts: Any, pods: Any, progress: Any) -> WorkloadState:
        phase, result = (Phase.SUCCEEDED, json.loads(facts.outcome)) if facts.outcome else (Phase.RUNNING, None)
        return WorkloadState(facts.name, facts.attempt, phase, result=result, gone=True)


def test_a_training_goes_to_ready_through_it(crds: ControlPlane, tmp_path: Path) -> None:
    """Nothing in this operator's process knows of Jobs, and its role has no right to them."""
    first = "from psr_operator import backends as b; from tests.doors import test_door_backend as t\n"
    first += "b.BACKENDS.register(b.DEFAULT)(t.ConfigMaps())"
    with place_for(crds, "door") as it:
        account = grant(crds, [it.namespace], [rule.to_json() for rule in rules([ConfigMaps()])])
        with start_operator(account, tmp_path, namespaces=[it.namespace], first=first) as operator:
            it.make({"apiVersion": "psr.dev/v1alpha1", "kind": "SFTJob", "metadata": {"name": "it"}, "spec": SPEC})
            work = it.until(lambda: it.get("ConfigMap", "it-a1"), "the Workload's ConfigMap")
            work["data"]["outcome"] = json.dumps({"output": "s3://bucket/m1", "digest": "sha256:1"})
            crds.request("PUT", it.path("ConfigMap", "it-a1"), work)
            it.until_reason("Succeeded", "SFTJob", "it")
            assert (it.all("Job"), "403" in operator.said()) == ([], False)
