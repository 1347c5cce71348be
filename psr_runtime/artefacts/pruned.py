"""`pruned.json`: what stands beside a checkpoint's manifest once its weights are removed, for those who miss them.

It is written before the first file goes, so that no reader ever misses weights without a reason. The
stage that removes them is `prune.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationError

from psr_runtime.protocol.errors import InputMissing, WeightsPruned
from psr_runtime.storage import Storage, join

PRUNED = "pruned.json"


class Pruned(BaseModel):
    """Why the weights of a checkpoint are gone.

    Attributes:
        retention: the rule that they were removed by.
        run: `namespace/name` of the run whose rule it was.
        digest: of the work that removed them.
        time: when that began, RFC 3339.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    retention: str
    run: str
    digest: str
    time: str


def write_pruned(storage: Storage, uri: str, pruned: Pruned) -> None:
    """Write `pruned.json`, once: where an earlier attempt has written it, that one stands."""
    storage.create(join(uri, PRUNED), pruned.model_dump_json(indent=1).encode() + b"\n")


def read_pruned(storage: Storage, uri: str) -> Pruned | None:
    """What `pruned.json` says; None where there is none, or none that can be read."""
    try:
        return Pruned.model_validate_json(storage.read(join(uri, PRUNED)))
    except (InputMissing, ValidationError):
        return None


@contextlib.contextmanager
def missing_explained(storage: Storage, uri: str) -> Iterator[None]:
    """While a file of this artefact is read: where it is missing since the weights were pruned, say so.

    Raises:
        WeightsPruned: a file is missing, and `pruned.json` says why.
        InputMissing: a file is missing, and nothing says why.
    """
    try:
        yield
    except InputMissing as error:
        pruned = read_pruned(storage, uri)
        if pruned is None:
            raise
        raise WeightsPruned(
            f"{uri}: its weights were pruned by retention {pruned.retention} of run {pruned.run} ({pruned.time}); make "
            "the model again (rerun), and let a run whose models others read have storage.retention All"
        ) from error
