"""A Server → ConfigMap, headless Service, Deployment and PodDisruptionBudget, and the Secret of its bearer key.

The model stands in the ConfigMap and nowhere else: it is exchanged in place by whoever drives the server, and a pod
that starts later begins with the model that is wanted then. Everything else that changes rolls the pods.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from psr_operator.api.common import Resource
from psr_operator.planner.types import Server
from psr_operator.render.labels import (
    ANNOTATION_MODEL_HASH,
    ANNOTATION_REVISION,
    ANNOTATION_SERVE_HASH,
    ANNOTATION_SERVER_HASH,
    LABEL_COMPONENT,
    LABEL_SERVER,
    LABEL_UID,
    foreign,
    labels,
    metadata,
)
from psr_operator.render.pod import Container, apart, secret_variable, template
from psr_operator.render.settings import REVISION, Settings, resolved_image
from psr_operator.render.volumes import CONFIG, SCRATCH
from psr_runtime.config import ServeStage
from psr_runtime.protocol import API_PORT, KEY_VARIABLE, READY_PATH, SECRET_KEY, control_port, key_secret_name

CONTAINER = "server"
FILE = "serve.json"
GRACE_SECONDS = 60
PROGRESS_SECONDS = 7200
"""A large model may take this long to load before Kubernetes calls the Deployment stuck."""


def server(server: Server, owner: Resource, settings: Settings, image: str | None = None) -> list[dict[str, Any]]:
    """ConfigMap, Service, Deployment and PodDisruptionBudget of a server.

    Args:
        image: of the present pods, where a newer operator must not change it.

    Raises:
        RenderError: the manifest asks for what no pod may have.
    """
    own = labels(owner, "server", {LABEL_SERVER: server.name})
    selector = {key: own[key] for key in (LABEL_COMPONENT, LABEL_SERVER, LABEL_UID)}
    config = _configuration(server)
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(_config_name(server), owner, own),
            "data": {FILE: json.dumps(config.to_json(), indent=1, ensure_ascii=False) + "\n"},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(server.name, owner, own),
            "spec": {
                "clusterIP": "None",
                "selector": selector,
                "ports": [
                    {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
                    for name, port in _ports(config).items()
                ],
            },
        },
        _deployment(server, owner, settings, image, own, selector),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(server.name, owner, own),
            "spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",  # a pod that does not serve holds up no drain
                "selector": {"matchLabels": selector},
            },
        },
    ]


def key_secret(server_name: str, owner: Resource, key: str) -> dict[str, Any]:
    """The Secret with the bearer key that a server asks for and its clients show."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(key_secret_name(server_name), owner, labels(owner, "server", {LABEL_SERVER: server_name})),
        "type": "Opaque",
        "data": {SECRET_KEY: base64.b64encode(key.encode()).decode()},
    }


def server_hash(server: Server) -> str:
    """16 hexadecimal digits that change with everything but the model.

    Defaults are left out, so that an operator that knows more fields finds the same hash.
    """
    placement = server.placement
    return _hash(
        {
            **{key: getattr(server, key) for key in ("name", "engine", "replicas", "port")},
            "access": server.storage,
            **{key: getattr(placement, key) for key in ("resources", "pod", "image", "storage")},
            "labels": dict(placement.labels),
            "annotations": dict(placement.annotations),
        }
    )


def model_hash(server: Server) -> str:
    """16 hexadecimal digits that change with the model and the digest that it must have."""
    return _hash({"model": server.model, "digest": server.digest})


def _deployment(
    server: Server,
    owner: Resource,
    settings: Settings,
    image: str | None,
    own: Mapping[str, str],
    selector: Mapping[str, str],
) -> dict[str, Any]:
    placement = server.placement
    config = _configuration(server)
    annotations = {
        **foreign(placement.annotations),
        ANNOTATION_REVISION: str(REVISION),
        ANNOTATION_SERVER_HASH: server_hash(server),
        ANNOTATION_MODEL_HASH: model_hash(server),
    }
    serve_hash = _hash({"engine": server.engine, "storage": server.storage, "port": config.port})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(server.name, owner, own, labels=placement.labels, annotations=annotations),
        "spec": {
            "replicas": server.replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": PROGRESS_SECONDS,
            # GPUs for one more pod are seldom free.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "selector": {"matchLabels": dict(selector)},
            "template": template(
                Container(
                    name=CONTAINER,
                    image=image or resolved_image(server, settings),
                    command=["python3", "-m", "psr_runtime", "serve", "--config", f"{CONFIG}/{FILE}"],
                    env=[secret_variable(KEY_VARIABLE, key_secret_name(server.name), SECRET_KEY)],
                    ports=_ports(config),
                    probes=_probes(),
                    config_map=_config_name(server),
                    uris={"model.uri": server.model.uri},
                    writes=False,
                    bring=settings.runtime_image if settings.bring_runtime else None,
                ),
                placement,
                settings,
                labels=own,
                annotations={ANNOTATION_SERVE_HASH: serve_hash},
                scheduling=apart(selector),
                restart_policy="Always",
                grace_seconds=GRACE_SECONDS,
            ),
        },
    }


def _configuration(server: Server) -> ServeStage:
    return ServeStage(
        model=server.model,
        engine=server.seeded_engine,
        storage=server.storage,
        host="0.0.0.0",
        port=server.port or API_PORT,
        scratch=SCRATCH,
        pins=server.pins,
    )


def _config_name(server: Server) -> str:
    return f"{server.name}-serve"


def _ports(config: ServeStage) -> dict[str, int]:
    return {"api": config.port, "control": control_port(config.port)}


def _probes() -> dict[str, Any]:
    """Ready: the wanted model is served. Alive: the supervisor answers, however long a model takes to load."""
    return {
        "readinessProbe": {
            "httpGet": {"path": READY_PATH, "port": "control"},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
        },
        "livenessProbe": {
            "tcpSocket": {"port": "control"},
            "initialDelaySeconds": 30,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }


def _hash(values: Mapping[str, Any]) -> str:
    plain = {
        key: value.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        if isinstance(value, BaseModel)
        else value
        for key, value in values.items()
    }
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
