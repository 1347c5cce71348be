"""Where objects are found at the apiserver, by the name of their kind: the operator's kinds and Jobs."""

from __future__ import annotations

from psr_operator import api
from psr_operator.backends.job import JOB
from psr_operator.controller import paths

KINDS = (*paths.KINDS, *api.KINDS, JOB.kind)
"""Names of the kinds that have a path here."""


def collection_of(kind: str, namespace: str | None) -> str:
    """Path of the objects of a kind in a namespace, or in all of them."""
    return paths.collection_of(JOB if kind == JOB.kind else kind, namespace)
