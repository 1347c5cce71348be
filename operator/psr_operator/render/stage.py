"""The pods of a Workload: one container that runs a stage, whatever object a back end puts around it."""

from __future__ import annotations

from typing import Any

from psr_operator.api.common import Resource
from psr_operator.planner.types import Workload
from psr_operator.render import shards
from psr_operator.render.labels import LABEL_ATTEMPT, LABEL_INDEX, LABEL_STAGE, LABEL_UID, LABEL_WORKLOAD, labels
from psr_operator.render.pod import Container, apart, secret_variable, template, together, variable
from psr_operator.render.settings import Settings, resolved_image
from psr_runtime.config import StageConfig, input_uris
from psr_runtime.protocol import (
    CONFIG_VARIABLE,
    KEY_VARIABLE,
    PROGRESS_HOST_VARIABLE,
    PROGRESS_PORT_VARIABLE,
    SECRET_KEY,
    SHARD_VARIABLE,
    key_secret_name,
)
from psr_runtime.stages import STAGES, Shape

CONTAINER = "stage"
GRACE_SECONDS = 120
"""A stage writes what it can when it is asked to stop."""


def stage_labels(workload: Workload, owner: Resource) -> dict[str, str]:
    """Labels of a Workload's objects and pods."""
    further = {LABEL_WORKLOAD: workload.name, LABEL_ATTEMPT: str(workload.attempt), LABEL_STAGE: workload.stage}
    return labels(owner, "stage", further)


def stage_template(workload: Workload, owner: Resource, settings: Settings) -> dict[str, Any]:
    """The template of a Workload's pods. Shards find their configuration by the label `LABEL_INDEX` of their pod.

    Raises:
        RenderError: the manifest asks for what no pod may have, or the configuration does not fit.
    """
    return template(
        _container(workload, settings),
        workload.placement,
        settings,
        labels=stage_labels(workload, owner),
        annotations={},
        scheduling=_scheduling(workload, owner),
        restart_policy="Never",
        grace_seconds=GRACE_SECONDS,
    )


def _container(workload: Workload, settings: Settings) -> Container:
    env = [
        variable(PROGRESS_HOST_VARIABLE, "0.0.0.0"),
        variable(PROGRESS_PORT_VARIABLE, str(settings.progress_port)),
    ]
    if workload.server is not None:
        env.append(secret_variable(KEY_VARIABLE, key_secret_name(workload.server), SECRET_KEY))
    if len(workload.configurations) > 1:
        index = {"fieldRef": {"fieldPath": f"metadata.labels['{LABEL_INDEX}']"}}
        env.append({"name": SHARD_VARIABLE, "valueFrom": index})
    env.append(variable(CONFIG_VARIABLE, shards.document(workload.configurations)))
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
    if STAGES[workload.stage].shape is Shape.RANKED:
        return together(selector)
    return apart(selector) if len(workload.configurations) > 1 else {}
