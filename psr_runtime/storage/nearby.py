"""What is there instead of a path that leads nowhere: for the messages of whoever looked for it."""

from __future__ import annotations

import os
from pathlib import Path

from psr_runtime.config.spelling import did_you_mean
from psr_runtime.storage.stores import Storage


def instead(storage: Storage, uri: str) -> str:
    """`beside` for a URI that leads nowhere; empty for one that lies on no file system of this machine, or is there."""
    path = storage.local_path(uri)
    return beside(path) if path is not None and not path.exists() else ""


def beside(path: Path) -> str:
    """What to put behind a message about a missing path: the name beside it that is most like it, or the folder above
    it that is missing already. Empty where there is nothing to say."""
    above = path.parent
    if above.is_dir():
        try:
            return did_you_mean(path.name, os.listdir(above))
        except OSError:
            return ""
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    if missing.parent == Path(missing.anchor):
        return (
            f"; this machine has no {missing}: where a volume is meant, --mount {missing}=FOLDER says which folder "
            "stands for it"
        )
    return f"; there is no folder {missing}{beside(missing)}"
