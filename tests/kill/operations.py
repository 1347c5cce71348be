"""Counting what a process does to a folder, so that it can be killed at any of these moments.

An operation is a call that changes what a later process finds: a file or folder that appears, disappears, is renamed,
linked, written by descriptor or flushed to disk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("replace", "link", "unlink", "rmdir", "mkdir", "write", "fsync", "fchmod")


class Operations:
    """Counts the operations of this process on what lies below a folder.

    Args:
        folder: the folder.
        at: called with the number of an operation, from 1, and `before` or `after`.
    """

    def __init__(self, folder: Path, at: Callable[[int, str], None]) -> None:
        self._folder = str(folder)
        self._at = at
        self._lock = threading.Lock()
        self.count = 0

    def install(self) -> None:
        """Watch every operation from now on, until this process ends."""
        for name in NAMES:
            setattr(os, name, self._watched(getattr(os, name)))

    def _watched(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if not any(self._is_below(item, named.get("dir_fd")) for item in arguments[:2]):
                return plain(*arguments, **named)
            with self._lock:
                self.count += 1
                number = self.count
            self._at(number, "before")
            value = plain(*arguments, **named)
            self._at(number, "after")
            return value

        return call

    def _is_below(self, item: Any, folder: int | None) -> bool:
        """Whether a path or an open file lies in the folder; other arguments (data, modes) are no place at all."""
        if isinstance(item, str | os.PathLike):
            path = os.fspath(item)
            if folder is not None:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        elif isinstance(item, int):
            try:
                path = os.readlink(f"/proc/self/fd/{item}")
            except OSError:
                return False
        else:
            return False
        return path == self._folder or path.startswith(self._folder + "/")
