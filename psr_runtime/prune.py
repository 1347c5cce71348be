"""`prune`: remove the weights of checkpoints that nobody reads any more, and keep what says what they were.

Of a checkpoint go the weights, of training and of serving, and what is left of resumable states. Manifest, fingerprint,
configuration and tokenizer stay: they are its lineage, and later stages take its digest from them. Who may still read
is for the caller to know; here it is only seen to that nothing else is ever removed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from psr_runtime.artefacts.checkpoints import MAKERS, WEIGHTS
from psr_runtime.artefacts.manifest import FileEntry, require_manifest
from psr_runtime.artefacts.ownership import check_removable
from psr_runtime.artefacts.pruned import Pruned, write_pruned
from psr_runtime.config import Owner, PrunedModel, PruneStage
from psr_runtime.config.results import PruneResult
from psr_runtime.protocol.errors import DataError
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.stages import STAGES
from psr_runtime.storage import Storage, join

REMOVED = "removed.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that may be pruned.

    Attributes:
        weights: its files of weights, and where each lies.
        working: folders with half-done work of its stage.
    """

    uri: str
    weights: list[tuple[FileEntry, str]]
    working: list[str]


def run(config: PruneStage, context: StageContext) -> Outcome:
    """Remove the weights of `config.models`; killed at any moment, the next attempt ends the same.

    Returns:
        The list of what was removed, by the manifests; its result counts files and bytes.

    Raises:
        InputMissing: no checkpoint there.
        DataError: something else stands there, or it belongs to somebody else.
        Interrupted: asked to stop.
    """
    storage = context.storage
    checkpoints = [_checked(storage, config.owner, model) for model in config.models]  # all, before anything goes
    files = [item for checkpoint in checkpoints for item in checkpoint.weights]
    context.progress.start(len(files), "files")
    pruned = Pruned(
        retention=config.retention,
        run=config.owner.name,
        digest=context.digest,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    for checkpoint in checkpoints:
        write_pruned(storage, checkpoint.uri, pruned)
    for _, place in files:
        context.check_stop()
        storage.delete(place)
        context.progress.advance()
    for checkpoint in checkpoints:
        for place in checkpoint.working:
            storage.delete_folder(place)

    folder = context.scratch / "artefact"
    folder.mkdir()
    removed = [
        {"checkpoint": item.uri, "files": [{"uri": place, "size": entry.size} for entry, place in item.weights]}
        for item in checkpoints
    ]
    (folder / REMOVED).write_text(json.dumps(removed, indent=1) + "\n", encoding="utf-8")
    return Outcome(folder, result=PruneResult(files=len(files), bytes=sum(entry.size for entry, _ in files)))


def _checked(storage: Storage, owner: Owner, model: PrunedModel) -> Checkpoint:
    """The checkpoint that is meant, and no other."""
    check_removable(storage, model.uri, owner)
    manifest = require_manifest(storage, model.uri, MAKERS)
    if manifest.identity != model.digest:
        raise DataError(
            f"{model.uri}: holds {manifest.identity}, and {model.digest} is to be pruned; nothing was removed. Look "
            "who has written there"
        )
    weights = [
        (entry, manifest.place(model.uri, entry.path)) for entry in manifest.files if entry.path.endswith(WEIGHTS)
    ]
    for _, place in weights:
        _check_place(storage, owner, place)
    working = [join(model.uri, name) for name in STAGES[manifest.stage].working]
    return Checkpoint(model.uri, weights, working)


def _check_place(storage: Storage, owner: Owner, uri: str) -> None:
    """On `file://` no link leads out of the owner's prefix."""
    path, prefix = storage.local_path(uri), storage.local_path(owner.uri)
    if path is None or prefix is None:
        return
    if not path.parent.resolve().is_relative_to(prefix.resolve()):
        raise DataError(f"{uri}: lies in {path.parent.resolve()}, outside of {owner.uri}; nothing was removed")
