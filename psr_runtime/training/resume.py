"""Resumable states of a training below its output: `resume/<update>/…`, each complete or absent.

A state's `complete.json` is written last and names every file with size and sha256; a folder without one is the rest
of a process that was killed and is removed. Older states go once a newer one is complete.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from psr_runtime.protocol.errors import InputMissing
from psr_runtime.storage import Storage, join, name_below, sha256_of

COMPLETE = "complete.json"
SCORES = "scores.json"


class ResumeStates:
    """States of one training.

    Args:
        uri: the output's `resume` folder.
        digest: identity of the result being made; states of another one are not taken up.
    """

    def __init__(self, storage: Storage, uri: str, digest: str) -> None:
        self._storage, self._uri, self._digest = storage, uri, digest

    def newest(self, to: Path) -> tuple[Path, int] | None:
        """Bring the newest complete state to this machine.

        Returns:
            Its folder below `to` and the number of updates done, or None where no usable state is left.
        """
        for update in sorted(self._updates(), reverse=True):
            folder = to / str(update)
            if self._bring(update, folder):
                return folder, update
        return None

    def keep(self, folder: Path, update: int) -> None:
        """Store the files of `folder` as the state after `update` updates, then remove all other states.

        Nobody may change the files afterwards: on `file://` they are linked, not copied.
        """
        place = join(self._uri, str(update))
        self._storage.delete(join(place, COMPLETE))
        entries: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.iterdir()):
            entries[path.name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
            self._storage.upload(path, join(place, path.name), sha256=entries[path.name]["sha256"], move=True)
        document = {"digest": self._digest, "files": entries}
        self._storage.write(join(place, COMPLETE), json.dumps(document, indent=1).encode())
        for other in self._updates() - {update}:
            self._remove(other)

    def keep_scores(self, scores: Any) -> None:
        """Store values that are computed once before the first update (reference log-probabilities), as JSON."""
        document = {"digest": self._digest, "scores": scores}
        self._storage.write(join(self._uri, SCORES), json.dumps(document).encode())

    def scores(self) -> Any:
        """What `keep_scores` stored, or None."""
        document = self._read(join(self._uri, SCORES))
        return document["scores"] if document.get("digest") == self._digest else None

    def _updates(self) -> set[int]:
        names = {name_below(self._uri, item.uri).partition("/")[0] for item in self._storage.list(self._uri)}
        return {int(name) for name in names if name.isdigit()}

    def _bring(self, update: int, to: Path) -> bool:
        place = join(self._uri, str(update))
        document = self._read(join(place, COMPLETE))
        if document.get("digest") != self._digest:
            self._remove(update)
            return False
        for name, entry in document["files"].items():
            try:
                sha256 = self._storage.download(join(place, name), to / name)
            except InputMissing:
                return False
            if (to / name).stat().st_size != entry["size"] or sha256 != entry["sha256"]:
                return False
        return True

    def _remove(self, update: int) -> None:
        """The marker goes first, so that no half-removed state looks complete."""
        place = join(self._uri, str(update))
        self._storage.delete(join(place, COMPLETE))
        self._storage.delete_folder(place)

    def _read(self, uri: str) -> dict[str, Any]:
        try:
            document = json.loads(self._storage.read(uri))
        except (InputMissing, ValueError):
            return {}
        return document if isinstance(document, dict) else {}
