"""Workload and Server → Kubernetes objects. Pure functions: values in, objects out; whoever calls them sends them.

`pod.py` and `volumes.py` hold the one pod template, `job.py` and `server.py` what stands around it, `shards.py` how one
configuration serves all pods of a Job, `labels.py` what everything is known by, `merge.py` how a manifest's wishes come
in.
No client is imported here, and nothing depends on what the cluster holds.
"""

from psr_operator.render.job import job
from psr_operator.render.labels import (
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
from psr_operator.render.server import key_secret, key_secret_name, model_hash, server, server_hash
from psr_operator.render.settings import REVISION, PodDefaults, RenderError, Settings, resolved_image

__all__ = [
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
    "job",
    "key_secret",
    "key_secret_name",
    "model_hash",
    "owner_reference",
    "resolved_image",
    "server",
    "server_hash",
]
