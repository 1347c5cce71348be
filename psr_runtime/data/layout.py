"""Which files of a folder are read: those of one split of a data set.

A folder may be one that `datasets` saved, one of the Hugging Face layout (`data/train-00000-of-00002.parquet`, a README
whose front matter names configurations and splits), or just a folder of data files. A split is told as the hub tells
it: by the front matter, else by a word in the names.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from psr_runtime.artefacts.manifest import is_content
from psr_runtime.data.files import PACKED
from psr_runtime.protocol.errors import DataError, InputMissing
from psr_runtime.storage import Storage, join, name_below

FORMS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
"""Endings of names of data files, before that of a packer."""
NO_DATA = frozenset({"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""Files of data sets that say something about the data and hold none."""
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in a name that tell its split."""
SHARD = re.compile(r"^(\w+?)-\d{5}-of-\d{5}")
ALL = "all"
"""Name of the one split of a folder whose names tell none."""


@dataclass(frozen=True)
class Files:
    """The files that are read.

    Attributes:
        uris: in order.
        split: of the data set; None for one file.
        others: its other splits.
    """

    uris: Sequence[str]
    split: str | None = None
    others: Sequence[str] = ()


def files_of(storage: Storage, uri: str, *, preferred: str, split: str | None = None) -> Files:
    """The files to read for a URI: the file itself, or those of one split of the folder.

    Args:
        preferred: the split that is read where there are several and none is asked for.
        split: the split that is asked for.

    Raises:
        InputMissing: nothing is there.
        DataError: no data files, no such split, or nobody can tell which of several.
    """
    objects = storage.list(uri)
    if not objects:
        raise InputMissing(f"{uri}: no such file or folder; check the URI")
    if objects[0].uri == uri.rstrip("/"):
        if split is not None:
            raise DataError(f"{uri}: a file has no splits; leave out split {split}")
        return Files([uri])
    names = sorted(name for item in objects if is_content(name := name_below(uri, item.uri)))
    splits = _splits(storage, uri, names)
    if split is None:
        split = preferred if preferred in splits else next(iter(splits)) if len(splits) == 1 else None
    if split is None or split not in splits:
        asked = f"no split {split}" if split is not None else f"several splits and none is called {preferred}"
        raise DataError(f"{uri}: {asked}; there are {', '.join(splits)}; name one of them, or the URI of its file")
    chosen = splits[split]
    _check_once(uri, chosen)
    return Files([join(uri, name) for name in chosen], split, [name for name in splits if name != split])


def _splits(storage: Storage, uri: str, names: Sequence[str]) -> Mapping[str, list[str]]:
    """Names of the files of each split."""
    if "dataset_dict.json" in names or "state.json" in names:
        return _saved(storage, uri, names)
    data = [name for name in names if form_of(name) is not None and name.rpartition("/")[2] not in NO_DATA]
    if not data:
        raise DataError(
            f"{uri}: holds no data file; their names end in {', '.join(FORMS)}, or in these and .gz or .zst"
        )
    if "README.md" in names and (declared := _declared(storage, uri, data)):
        return declared
    splits: dict[str, list[str]] = {}
    for name in data:
        splits.setdefault(_split_by_name(name), []).append(name)
    if len(splits) > 1:
        splits.pop(ALL, None)  # as on the hub: where names tell splits, what tells none is no part of the data
    return splits


def form_of(name: str) -> str | None:
    """The ending by which a name is that of a data file; None for others."""
    name = name.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    return next((form for form in FORMS if name.endswith(form)), None)


def _saved(storage: Storage, uri: str, names: Sequence[str]) -> Mapping[str, list[str]]:
    """Splits of what `save_to_disk` wrote: the Arrow files that each `state.json` lists."""
    splits = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if file == "state.json":
            place = join(uri, name)
            try:
                listed = [str(item["filename"]) for item in from_json(storage.read(place))["_data_files"]]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{place}: is not what save_to_disk writes ({error}); save the data set again"
                ) from error
            splits[folder or ALL] = [f"{folder}/{item}".lstrip("/") for item in listed]
    return splits


def _declared(storage: Storage, uri: str, data: Sequence[str]) -> Mapping[str, list[str]]:
    """Splits that the README's front matter declares; empty where it declares none.

    Raises:
        DataError: several configurations, none of them the default; or files that are not there.
    """
    place = join(uri, "README.md")
    front = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", storage.read(place).decode("utf-8", "replace"), re.DOTALL)
    try:
        about: Any = YAML(typ="safe", pure=True).load(front[1]) if front else None
    except YAMLError as error:
        raise DataError(f"{place}: its front matter is no YAML ({error})") from error
    configs = about.get("configs") if isinstance(about, Mapping) else None
    if not isinstance(configs, list):
        return {}
    configs = [item for item in configs if isinstance(item, Mapping) and item.get("data_files")]
    chosen = [item for item in configs if item.get("default") or item.get("config_name") == "default"] or configs
    if len(chosen) > 1:
        named = ", ".join(str(item.get("config_name")) for item in chosen)
        raise DataError(f"{uri}: holds several data sets ({named}); give the URI of the folder or file of one")
    splits: dict[str, list[str]] = {}
    for item in chosen:
        for split, patterns in _data_files(item["data_files"]):
            files = [name for name in data if any(_matches(name, pattern) for pattern in patterns)]
            if not files:
                raise DataError(f"{place}: split {split} names {', '.join(patterns)}, and no such file is there")
            splits.setdefault(split, []).extend(files)
    return splits


def _data_files(value: Any) -> list[tuple[str, list[str]]]:
    """Splits and their patterns: `data_files` is a pattern, a list of them, or a list of split and path."""
    items = value if isinstance(value, list) else [value]
    if all(isinstance(item, Mapping) for item in items):
        return [(str(item.get("split", "train")), _patterns(item.get("path"))) for item in items]
    return [("train", [str(item) for item in items])]


def _patterns(path: Any) -> list[str]:
    return [str(item) for item in (path if isinstance(path, list) else [path])]


def _matches(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern of the front matter; `**/` stands for any folders, or none."""
    pattern = pattern.removeprefix("./")
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern.replace("**/", ""))


def _split_by_name(name: str) -> str:
    """The split that a name tells, by its last word that tells one."""
    for part in reversed(name.split("/")):
        words = re.findall(r"[a-z]+", part.lower())
        for word in reversed(words):
            for split, keywords in KEYWORDS.items():
                if word in keywords:
                    return split
        if shard := SHARD.match(part):
            return shard[1]
    return ALL


def _check_once(uri: str, names: Sequence[str]) -> None:
    """Refuse a split that holds the same data twice, in two forms."""
    seen: dict[str, str] = {}
    for name in names:
        form = form_of(name)
        stem = name[: name.lower().rindex(form)] if form else name
        if stem in seen:
            raise DataError(
                f"{uri}: {seen[stem]} and {name} look like the same data in two forms; give the URI of one of them"
            )
        seen[stem] = name
