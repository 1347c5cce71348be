"""Names of children: one function, so that every module derives the same name."""

from __future__ import annotations

import hashlib

from psr_operator.api import Resource

LIMIT = 52
"""Longest name of a child; leaves room for what Kubernetes appends to a Job's name."""


def child_name(*parts: str | int) -> str:
    """The parts joined by dashes; a longer name than 52 characters is cut and ends in 8 digits of its hash."""
    name = "-".join(str(part) for part in parts)
    if len(name) <= LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LIMIT - 9].rstrip('-')}-{digest}"


def base_name(resource: Resource) -> str:
    """What an object's attempts, children and folders are named after: its name, with the kind's short one where an
    object of another kind has had the name before."""
    name = resource.metadata.name
    return name if resource.status.naming is None else child_name(name, resource.short_name)
