"""Paths of this machine in manifests: `problems: data/train.jsonl` is the file beside the manifest.

Only what reads manifest files resolves them, `psr run` say. An apiserver has no folder that a path could begin at: it
takes URIs only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from psr_operator.api.fields import fields_of, holds_uri, model_of
from psr_runtime.config import MARK

EXPLICIT = ("/", "./", "../", "~/")
"""How a path begins that can be nothing else."""
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
"""How a URI begins, rightly written or not: `s3:bucket` is no path."""


def with_uris(model: type[BaseModel], document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A document with `file://` URIs in place of its paths.

    A path of an input stands for what is there; where it says nothing of that (`./`, `../`, `~/`, `/`) and nothing is
    there, it is left as it is: `org/name` may be meant as a name of the Hugging Face hub.

    Args:
        model: of the document.
        document: plain values, as the manifest has them.
        folder: of the manifest; relative paths begin there.
    """
    known = fields_of(model)
    return {
        name: _with_uris(known[name], value, folder) if name in known else value for name, value in document.items()
    }


def _with_uris(field: FieldInfo, value: Any, folder: Path) -> Any:
    inner = model_of(field.annotation)
    if isinstance(value, list):
        return [_with_uris(field, item, folder) for item in value]
    if inner is not None and isinstance(value, dict):
        return with_uris(inner, value, folder)
    if isinstance(value, str) and holds_uri(field):
        return _uri(value, folder, must_exist=_is_input(field))
    return value


def _uri(text: str, folder: Path, *, must_exist: bool) -> str:
    if not text or SCHEME.match(text):
        return text
    path = os.path.abspath(folder / os.path.expanduser(text))
    if must_exist and not text.startswith(EXPLICIT) and not os.path.exists(path):
        return text
    return Path(path).as_uri()


def _is_input(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and extra.get(MARK) == "input"
