"""A Workload → a batch/v1 Job: one pod for work that is whole, one a shard for a search.

Attempts are the planner's: a Job of whole work runs once and never again. Only a search lets Kubernetes repeat single
shards, since they share nothing.
"""

from __future__ import annotations

from typing import Any

from psr_operator.api.common import Resource
from psr_operator.planner.types import Workload
from psr_operator.render import shards
from psr_operator.render.labels import (
    ANNOTATION_REVISION,
    LABEL_ATTEMPT,
    LABEL_STAGE,
    LABEL_UID,
    LABEL_WORKLOAD,
    foreign,
    labels,
    metadata,
)
from psr_operator.render.pod import Container, apart, secret_variable, template, together, variable
from psr_operator.render.server import KEY, key_secret_name
from psr_operator.render.settings import REVISION, Settings, resolved_image
from psr_runtime.config import StageConfig, input_uris

CONTAINER = "stage"
SHARDED = frozenset({"search"})
TRAINING = frozenset({"sft", "step-dpo"})
SHARD_RETRIES = 3
"""Failures of one shard before the attempt has failed."""
GRACE_SECONDS = 120
"""A stage writes what it can when it is told to stop."""
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


def job(workload: Workload, owner: Resource, settings: Settings) -> dict[str, Any]:
    """The Job of a Workload.

    Raises:
        RenderError: the manifest asks for what no pod may have, or the configuration does not fit.
    """
    placement = workload.placement
    own = labels(
        owner,
        "stage",
        {
            LABEL_WORKLOAD: workload.name,
            LABEL_ATTEMPT: str(workload.attempt),
            LABEL_STAGE: workload.stage,
        },
    )
    revision = {ANNOTATION_REVISION: str(REVISION)}
    pods = len(workload.configurations)
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        **_failures(workload.stage),
        "podReplacementPolicy": "Failed",
        "template": template(
            _container(workload, settings),
            placement,
            settings,
            labels=own,
            annotations={},
            scheduling=_scheduling(workload, owner),
            restart_policy="Never",
            grace_seconds=GRACE_SECONDS,
        ),
    }
    if placement.ttl_seconds is not None:
        spec["ttlSecondsAfterFinished"] = placement.ttl_seconds
    annotations = {**foreign(placement.annotations), **revision}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(workload.name, owner, own, labels=placement.labels, annotations=annotations),
        "spec": spec,
    }


def _container(workload: Workload, settings: Settings) -> Container:
    env = [
        variable("PSR_PROGRESS_HOST", "0.0.0.0"),
        variable("PSR_PROGRESS_PORT", str(settings.progress_port)),
    ]
    if workload.server is not None:
        env.append(secret_variable("PSR_SERVER_KEY", key_secret_name(workload.server), KEY))
    if len(workload.configurations) > 1:
        index = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX_LABEL}']"}}
        env.append({"name": shards.SHARD, "valueFrom": index})
    env.append(variable("PSR_STAGE_CONFIG", shards.document(workload.configurations)))
    return Container(
        name=CONTAINER,
        image=resolved_image(workload, settings),
        command=["python", "-m", "psr_runtime", workload.stage],
        env=env,
        ports={"progress": settings.progress_port},
        uris=_uris(workload.configurations[0]),
    )


def _uris(configuration: StageConfig) -> dict[str, str]:
    """What a stage reads and writes; its shards differ in their numbers only."""
    owner = {"owner.uri": configuration.owner.uri} if configuration.owner is not None else {}
    return {**input_uris(configuration), "output": configuration.output, **owner}


def _scheduling(workload: Workload, owner: Resource) -> dict[str, Any]:
    selector = {LABEL_UID: owner.metadata.uid, LABEL_WORKLOAD: workload.name}
    if workload.stage in TRAINING:
        return together(selector)
    return apart(selector) if len(workload.configurations) > 1 else {}


def _failures(stage: str) -> dict[str, Any]:
    """What Kubernetes does when a pod fails. The index of the rule that ended a Job tells the class of its end."""
    final = {"action": "FailJob", "onExitCodes": _codes(64, 65, 66)}
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    if stage in SHARDED:
        ignore = {"action": "Ignore", "onPodConditions": disrupted}
        return {
            "backoffLimitPerIndex": SHARD_RETRIES,
            "maxFailedIndexes": 0,
            "podFailurePolicy": {"rules": [final, ignore]},
        }
    rules = [
        final,
        {"action": "FailJob", "onPodConditions": disrupted},
        {"action": "FailJob", "onExitCodes": _codes(75)},
    ]
    return {"backoffLimit": 0, "podFailurePolicy": {"rules": rules}}


def _codes(*values: int) -> dict[str, Any]:
    return {"containerName": CONTAINER, "operator": "In", "values": list(values)}
