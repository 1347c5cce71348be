"""What the operator decides about every pod, which image a pod gets, and the error for what cannot be rendered."""

from __future__ import annotations

from dataclasses import dataclass

from psr_operator.planner.plan import Server, Workload

REVISION = 1
"""Raised when what is rendered from the same value changes; it stands on every Job and Deployment."""


@dataclass(frozen=True)
class Settings:
    """The operator's own words.

    Attributes:
        runtime_image: of stages whose manifest names none.
        inference_image: of servers whose manifest names none.
        service_accounts: those that manifests may name.
        progress_port: where a stage's pod serves `/progress`.
    """

    runtime_image: str
    inference_image: str
    image_pull_policy: str = "IfNotPresent"
    service_accounts: frozenset[str] = frozenset()
    progress_port: int = 8090


class RenderError(Exception):
    """A wanted value that no object can be made of; repeating will not help.

    Args:
        reason: the class of the fault, a CamelCase word for conditions.
        message: what is wrong and what to change.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def resolved_image(wanted: Workload | Server, settings: Settings) -> str:
    """The image of a piece of work: its manifest's, else the operator's for its kind."""
    own = settings.inference_image if isinstance(wanted, Server) else settings.runtime_image
    return wanted.placement.image or own
