"""Which package brings a plug-in, as the installed packages say themselves (entry points).

The version is part of the digest of every result that the plug-in decided. What a plug-in does and how it is loaded
stands in `psr_runtime.config.plugins`.
"""

from __future__ import annotations

from importlib import metadata


def entry_points(group: str) -> list[metadata.EntryPoint]:
    """The entry points of a group in a fixed order: of two that have one name, the first counts."""
    return sorted(metadata.entry_points(group=group), key=lambda item: (item.name, item.value))


def package_of(item: metadata.EntryPoint) -> str:
    """Name and version of the package that an entry point belongs to: `my-judges 1.2.0`."""
    return f"{item.dist.name} {item.dist.version}" if item.dist is not None else item.value


def bringer(group: str, name: str) -> str | None:
    """Name and version of the package that brings a plug-in; None where no installed package does."""
    return next((package_of(item) for item in entry_points(group) if item.name == name), None)
