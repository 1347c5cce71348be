"""Counting what a process does to a folder, so that it can be killed at any of these moments.

An operation is a call that changes what a later process finds: a file or folder that appears, disappears, is renamed,
linked, opened for writing, written by descriptor or flushed to disk.
"""

from __future__ import annotations

import builtins
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("replace", "link", "unlink", "rmdir", "mkdir", "fsync", "fchmod")


class Operations:
    """Counts the operations of this process on what lies below a folder.

    Args:
        folder: the folder.
        at: called with the number of an operation, from 1, and `before` or `after`, in a write also `within`.

    Attributes:
        names: the operations so far.
    """

    def __init__(self, folder: Path, at: Callable[[int, str], None]) -> None:
        self._folder = str(folder)
        self._at = at
        self._lock = threading.Lock()
        self.names: list[str] = []

    def install(self) -> None:
        """Watch every operation from now on, until this process ends."""
        for name in NAMES:
            setattr(os, name, self._watched(name, getattr(os, name)))
        os.write = self._watched("write", self._in_two(os.write))
        os.open = self._watched("open", os.open, _creates)
        builtins.open = io.open = self._watched("open", open, _writes)

    def _watched(
        self, name: str, plain: Callable[..., Any], counts: Callable[..., bool] | None = None
    ) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            seen = counts is None or counts(*arguments, **named)
            if not seen or not any(self._is_below(item, named.get("dir_fd")) for item in arguments[:2]):
                return plain(*arguments, **named)
            with self._lock:
                self.names.append(name)
                number = len(self.names)
            self._at(number, "before")
            value = plain(*arguments, **named)
            self._at(number, "after")
            return value

        return call

    def _in_two(self, plain: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        """`os.write` with a moment at which half of the data is written. Writers of one folder's files take turns."""

        def write(file: int, data: Any) -> int:
            done = plain(file, data[: len(data) // 2])
            if self._is_below(file, None):
                self._at(len(self.names), "within")
            return done + plain(file, data[done:])

        return write

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


def _creates(path: Any, flags: int, *_: Any, **named: Any) -> bool:
    return bool(flags & os.O_CREAT)


def _writes(file: Any, mode: str = "r", *_: Any, **named: Any) -> bool:
    return bool(set("wax+") & set(mode))
