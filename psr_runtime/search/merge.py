"""`merge`: verify the shards of a search and publish one pair set, in the order of the round's problems."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from psr_runtime.artefacts.fetching import fetch
from psr_runtime.artefacts.manifest import Manifest, require_manifest
from psr_runtime.config import MergeStage
from psr_runtime.data.reading import parse_records
from psr_runtime.data.records import PAIRS, Pair, Tree
from psr_runtime.protocol.errors import DataError
from psr_runtime.search.pairs import TREES, write_set
from psr_runtime.search.statistics import statistics
from psr_runtime.stage import Outcome, StageContext

R = TypeVar("R", bound=BaseModel)


def run(config: MergeStage, context: StageContext) -> Outcome:
    """Join the shards. Problems went to them round-robin, so taking one of each in turn restores their order.

    Raises:
        InputMissing: a shard is not finished.
        DataError: shards of different searches, or a problem that is missing or stands twice.
    """
    context.progress.start(len(config.parts), "shards")
    manifests = [require_manifest(context.storage, uri, ("search",)) for uri in config.parts]
    _check_same_search(config, manifests)
    trees: list[list[Tree]] = []
    pairs: list[Pair] = []
    for index, uri in enumerate(config.parts):
        folder = fetch(context.storage, uri, context.scratch / f"shard-{index}")
        trees.append(_read(folder, TREES, Tree))
        pairs += _read(folder, PAIRS, Pair)
        context.progress.advance()
    ordered = [tree for row in zip_longest(*trees) for tree in row if tree is not None]
    expected = [name for row in zip_longest(*(m.metadata["problems"] for m in manifests)) for name in row if name]
    if [tree.problem_id for tree in ordered] != expected or len(set(expected)) != len(expected):
        raise DataError(f"{config.output}: the shards do not hold every problem exactly once; search again")
    place = {name: index for index, name in enumerate(expected)}
    pairs.sort(key=lambda pair: (place[pair.problem_id], pair.level))
    folder = context.scratch / "output"
    write_set(folder, ordered, pairs)
    kept = ("tokenizer_digest", "template_digest", "frame")
    metadata = {key: manifests[0].metadata[key] for key in kept if key in manifests[0].metadata}
    return Outcome(folder, metadata | {"problems": expected}, statistics(ordered, pairs))


def _check_same_search(config: MergeStage, manifests: list[Manifest]) -> None:
    for index, (uri, manifest) in enumerate(zip(config.parts, manifests, strict=True)):
        shard, shards = manifest.configuration["shard"], manifest.configuration["shards"]
        if shards != len(manifests) or shard != index:
            raise DataError(f"{uri}: is shard {shard} of {shards}, expected {index} of {len(manifests)}")
        if manifest.metadata["search"] != manifests[0].metadata["search"]:
            raise DataError(f"{uri}: made by another search than {config.parts[0]}; search again")
    frames = [manifest.metadata.get("frame") for manifest in manifests]
    for uri, frame in zip(config.parts, frames, strict=True):
        if None not in (frame, frames[0]) and frame != frames[0]:
            raise DataError(
                f"{uri}: its prompts were rendered otherwise than those of {config.parts[0]} ({frame}, {frames[0]}); "
                "search both with one version"
            )


def _read(folder: Path, name: str, kind: type[R]) -> list[R]:
    return list(parse_records((folder / name).read_text(encoding="utf-8"), str(folder / name), kind, empty=True))
