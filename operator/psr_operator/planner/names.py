"""Names of children: one function, so that every module derives the same name."""

from __future__ import annotations

import hashlib

LIMIT = 52
"""Longest name of a child; leaves room for what Kubernetes appends to a Job's name."""


def child_name(*parts: str | int) -> str:
    """The parts joined by dashes; a longer name than 52 characters is cut and ends in 8 digits of its hash."""
    name = "-".join(str(part) for part in parts)
    if len(name) <= LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LIMIT - 9].rstrip('-')}-{digest}"
