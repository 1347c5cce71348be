"""Workload and Server → Kubernetes objects. Pure functions: values in, objects out; whoever calls them sends them.

`pod.py` and `volumes.py` hold the one pod template; `stage.py` makes a stage's pods of it and `server.py` a server with
all its objects. `shards.py` says how one configuration serves all pods of a Workload, `labels.py` what every object is
known by, `merge.py` how a manifest's wishes come in. The objects around a stage's pods are a back end's (`backends/`).
No client is imported here, and nothing depends on what the cluster holds.
"""

from psr_operator.render.labels import (
    ANNOTATION_KEY_HASH,
    ANNOTATION_MODEL_HASH,
    ANNOTATION_REVISION,
    ANNOTATION_SERVE_HASH,
    ANNOTATION_SERVER_HASH,
    LABEL_ATTEMPT,
    LABEL_COMPONENT,
    LABEL_KIND,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    LABEL_SERVER,
    LABEL_STAGE,
    LABEL_UID,
    LABEL_WORKLOAD,
    MANAGED_BY,
    owner_reference,
)
from psr_operator.render.server import key_secret, model_hash, server, server_hash
from psr_operator.render.settings import REVISION, PodDefaults, RenderError, Settings, resolved_image

__all__ = [
    "ANNOTATION_KEY_HASH",
    "ANNOTATION_MODEL_HASH",
    "ANNOTATION_REVISION",
    "ANNOTATION_SERVER_HASH",
    "ANNOTATION_SERVE_HASH",
    "LABEL_ATTEMPT",
    "LABEL_COMPONENT",
    "LABEL_KIND",
    "LABEL_MANAGED_BY",
    "LABEL_NAME",
    "LABEL_SERVER",
    "LABEL_STAGE",
    "LABEL_UID",
    "LABEL_WORKLOAD",
    "MANAGED_BY",
    "REVISION",
    "PodDefaults",
    "RenderError",
    "Settings",
    "key_secret",
    "model_hash",
    "owner_reference",
    "resolved_image",
    "server",
    "server_hash",
]
