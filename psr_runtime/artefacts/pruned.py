"""`pruned.json`: what stands beside a checkpoint's manifest once its weights are let go, for those who miss them.

It is written before the first file goes, so that no reader ever finds weights missing without being told why. The
stage that removes them is `prune.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationError

from psr_runtime.errors import WEIGHTS_PRUNED, InputMissing
from psr_runtime.storage import Storage, join

PRUNED = "pruned.json"


class Pruned(BaseModel):
    """Why the weights of a checkpoint are gone.

    Attributes:
        retention: the rule that let them go.
        run: `namespace/name` of the run whose rule it was.
        digest: of the work that removed them.
        time: when that began, RFC 3339.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    retention: str
    run: str
    digest: str
    time: str


def leave_word(storage: Storage, uri: str, word: Pruned) -> None:
    """Write `pruned.json`, once: where an earlier attempt has written it, that one stands."""
    storage.create(join(uri, PRUNED), word.model_dump_json(indent=1).encode() + b"\n")


def word_left(storage: Storage, uri: str) -> Pruned | None:
    """What `pruned.json` says; None where there is none, or none that can be read."""
    try:
        return Pruned.model_validate_json(storage.read(join(uri, PRUNED)))
    except (InputMissing, ValidationError):
        return None


@contextlib.contextmanager
def missing_explained(storage: Storage, uri: str) -> Iterator[None]:
    """Say of a file of this artefact that is missing that its weights were pruned, if they were.

    Raises:
        InputMissing: as before, with the reason where one is known.
    """
    try:
        yield
    except InputMissing as error:
        word = word_left(storage, uri)
        if word is None:
            raise
        raise InputMissing(
            f"{uri}: its {WEIGHTS_PRUNED} {word.retention} of run {word.run} ({word.time}); make the model again "
            "(rerun), and let a run whose models others read have storage.retention All"
        ) from error
