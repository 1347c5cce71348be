"""One artefact written by several ranks: each uploads its own files, rank 0 verifies all and writes the manifest last.

Every rank calls `publish_part` with its folder; what it leaves is `parts/<content>/rank-00003.json`, put on the
condition that none is there. Rank 0 then calls `publish_parts`, which waits for the parts, holds them against each
other and against what lies in the store, and publishes. Nothing here talks to other ranks: `content` is what all of
them know already and no other attempt does, best `content_of` all their files, exchanged by the training's own
collectives; then an attempt with the same bytes sends nothing again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from psr_runtime.artefacts.manifest import MANIFEST, FileEntry, InputEntry, Manifest, below, read_manifest
from psr_runtime.artefacts.publishing import CLAIM, claim, conclude, content_of, entries_of, expected, send
from psr_runtime.protocol.errors import DataError, Interrupted
from psr_runtime.storage import NotFound, Storage, join, name_below

FOLDER = "parts"
MOST_RANKS = 100_000
POLL_SECONDS = (0.1, 2.0)
"""Pause between two looks for a part: the first one, doubled up to the last."""


class Part(BaseModel):
    """What one rank has written.

    Attributes:
        digest: identity of the work, as in the manifest.
        content: what the ranks of one attempt agree on.
        root: folder below the artefact's that holds the files; empty where they have their plain names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    rank: int
    ranks: int
    digest: str
    content: str
    root: Annotated[str, AfterValidator(lambda root: root and below(root))]
    files: list[FileEntry]


def publish_part(
    storage: Storage, uri: str, folder: Path, *, rank: int, ranks: int, digest: str, content: str
) -> Part | None:
    """Upload this rank's files below `uri` and leave its part; None where the artefact is published already.

    The same call again, after a break, sends what is missing.

    Args:
        folder: files of this rank, on this machine; their paths are no other rank's.
        digest: identity of the work, the same on all ranks.
        content: the same on all ranks of this attempt and on no others: at least 16 letters or digits.

    Raises:
        DataError: another digest stands there, or this rank's part of this attempt, with other files.
    """
    _check_numbers(rank, ranks, content)
    published = read_manifest(storage, uri)
    if published is not None:
        expected(uri, digest, published)
        return None
    entries = entries_of(folder)
    for entry in entries:
        if entry.path in (MANIFEST, CLAIM) or entry.path.startswith(f"{FOLDER}/"):
            raise ValueError(f"rank {rank} has a file {entry.path}; that name is taken")
    place = _place(uri, content, rank)
    earlier = _read(storage, place)
    if earlier is None:
        root = claim(storage, uri, content, entries)
        send(storage, uri, root, folder, entries)
        if read_manifest(storage, uri) is not None:  # another attempt was first
            return None
        part = Part(rank=rank, ranks=ranks, digest=digest, content=content, root=root, files=entries)
        if storage.create(place, part.model_dump_json(indent=1).encode() + b"\n"):
            return part
        earlier = _read(storage, place) or part
    facts = (earlier.rank, earlier.ranks, earlier.digest, content_of(earlier.files))
    if facts != (rank, ranks, digest, content_of(entries)):
        raise DataError(f"{place}: rank {rank} has published other files there; give each attempt its own content")
    return earlier


def publish_parts(
    storage: Storage,
    uri: str,
    *,
    ranks: int,
    content: str,
    wait_seconds: float,
    stop: threading.Event | None = None,
    stage: str,
    schema_version: int,
    digest: str,
    inputs: Mapping[str, InputEntry],
    configuration: Mapping[str, Any],
    versions: Mapping[str, str],
    metadata: Mapping[str, Any],
    result: Mapping[str, Any],
) -> Manifest:
    """Wait for the parts of all ranks, verify them and write the manifest last. Rank 0 only, after its own part.

    Args:
        wait_seconds: how long a rank may take longer than this one.
        stop: ends the waiting.

    Returns:
        The manifest that stands at `uri` afterwards.

    Raises:
        Interrupted: parts are missing after `wait_seconds`, or `stop` was set; the same calls go on later.
        DataError: a part is of another work or number of ranks, two ranks wrote the same path, or a file that a part
            lists is not there in that size; or another digest stands at `uri`.
    """
    _check_numbers(0, ranks, content)
    published = read_manifest(storage, uri)
    if published is not None:
        return expected(uri, digest, published)
    parts = _wait(storage, uri, ranks, content, digest, wait_seconds, stop or threading.Event())
    root = parts[0].root
    entries = _joined(uri, parts)
    _check_there(storage, uri, root, entries)
    manifest = Manifest(
        stage=stage,
        schema_version=schema_version,
        digest=digest,
        files=entries,
        inputs=dict(inputs),
        configuration=dict(configuration),
        versions=dict(versions),
        metadata=dict(metadata),
        result=dict(result),
        root=root,
    )
    published = conclude(storage, uri, manifest)
    _forget_parts(storage, uri, published)
    return published


def _check_numbers(rank: int, ranks: int, content: str) -> None:
    if not 0 <= rank < ranks <= MOST_RANKS:
        raise ValueError(f"rank {rank} of {ranks}: ranks are 0 to {ranks - 1}, and {MOST_RANKS} at most")
    if len(content) < 16 or not content.isalnum():
        raise ValueError(f"content {content!r}: give at least 16 letters or digits")


def _place(uri: str, content: str, rank: int) -> str:
    return join(uri, FOLDER, content, f"rank-{rank:05d}.json")


def _read(storage: Storage, place: str) -> Part | None:
    try:
        return Part.model_validate_json(storage.read(place))
    except NotFound:
        return None
    except ValidationError as error:
        raise DataError(f"{place}: {error.errors()[0]['msg']}; this is no part of an artefact") from error


def _wait(
    storage: Storage, uri: str, ranks: int, content: str, digest: str, seconds: float, stop: threading.Event
) -> list[Part]:
    """The parts of all ranks in order; a wrong one is an error as soon as it is there."""
    present: dict[int, Part] = {}
    end = time.monotonic() + seconds
    pause, longest = POLL_SECONDS
    while True:
        there = {item.uri for item in storage.list(join(uri, FOLDER, content))}
        for rank in range(ranks):
            place = _place(uri, content, rank)
            if rank not in present and place in there and (part := _read(storage, place)) is not None:
                _check_part(place, part, rank, ranks, digest)
                present[rank] = part
        missing = [rank for rank in range(ranks) if rank not in present]
        if not missing:
            return [present[rank] for rank in range(ranks)]
        if time.monotonic() >= end:
            names = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
            raise Interrupted(
                f"{uri}: no part of rank {names} of {ranks} after {seconds:.0f} s; see why it ended, and run all again"
            )
        if stop.wait(min(pause, max(0.0, end - time.monotonic()))):
            raise Interrupted(f"{uri}: asked to stop while waiting for {len(missing)} of {ranks} parts")
        pause = min(2 * pause, longest)


def _check_part(place: str, part: Part, rank: int, ranks: int, digest: str) -> None:
    if part.digest != digest:
        raise DataError(f"{place}: a part of {part.digest}, this work is {digest}; all ranks need one configuration")
    if (part.rank, part.ranks) != (rank, ranks):
        raise DataError(f"{place}: says rank {part.rank} of {part.ranks}, expected is rank {rank} of {ranks}")


def _joined(uri: str, parts: list[Part]) -> list[FileEntry]:
    """All files, sorted by path."""
    owner: dict[str, int] = {}
    for part in parts:
        if part.root != parts[0].root:
            raise Interrupted(f"{uri}: ranks 0 and {part.rank} wrote into different folders; run all again")
        for entry in part.files:
            if entry.path in owner:
                raise DataError(f"{uri}: ranks {owner[entry.path]} and {part.rank} both wrote {entry.path}")
            owner[entry.path] = part.rank
    return sorted((entry for part in parts for entry in part.files), key=lambda entry: entry.path)


def _check_there(storage: Storage, uri: str, root: str, entries: list[FileEntry]) -> None:
    folder = join(uri, root) if root else uri
    sizes = {name_below(folder, item.uri): item.size for item in storage.list(folder)}
    for entry in entries:
        if sizes.get(entry.path) != entry.size:
            raise DataError(
                f"{join(folder, entry.path)}: {sizes.get(entry.path, 'no')} bytes where its rank wrote {entry.size}; "
                "somebody else writes there"
            )


def _forget_parts(storage: Storage, uri: str, published: Manifest) -> None:
    """Remove all parts, and the files of those that are not in the artefact: of attempts that did not come so far."""
    for item in storage.list(join(uri, FOLDER)):
        part = _read(storage, item.uri)
        if part is not None and part.root != published.root:
            for entry in part.files:
                storage.delete(join(uri, *filter(None, (part.root, entry.path))))
    storage.delete_folder(join(uri, FOLDER))
