"""Who brings an implementation that a manifest names: a file of ours, or an installed package by an entry point.

A package's version is part of the digest of every result that its plug-in decided. What a plug-in does and how it is
loaded stands in `psr_runtime.config.plugins`. Nothing is imported here but parent packages.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib import metadata, util
from pathlib import Path


@cache
def own_implementations(package: str) -> Mapping[str, str]:
    """Our implementations in a package: name in a manifest -> `module:class`.

    One stands in a file of its own, as the class that is called as the file is: `MathVerify` in `math_verify.py`.
    """
    spec = util.find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    own = {}
    for path in sorted(file for place in places or () for file in Path(place).glob("[a-z]*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and node.name.lower() == path.stem.replace("_", ""):
                own[node.name] = f"{package}.{path.stem}:{node.name}"
    return own


def entry_points(group: str) -> list[metadata.EntryPoint]:
    """The entry points of a group in a fixed order: of two that have one name, the first counts."""
    return sorted(metadata.entry_points(group=group), key=lambda item: (item.name, item.value))


def package_of(item: metadata.EntryPoint) -> str:
    """Name and version of the package that an entry point belongs to: `my-judges 1.2.0`."""
    return f"{item.dist.name} {item.dist.version}" if item.dist is not None else item.value


def bringer(group: str, name: str) -> str | None:
    """Name and version of the package that brings a plug-in; None where no installed package does."""
    return next((package_of(item) for item in entry_points(group) if item.name == name), None)
