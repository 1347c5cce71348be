"""What this machine has: devices, memory, free space."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ASK_SECONDS = 10.0
MIB = 1024**2


def free_bytes(path: Path) -> int:
    """Free space where a path lies, or would lie."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """The nearest folder at or above a path that is there."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


@dataclass(frozen=True)
class Machine:
    """A machine on which the work is to be done.

    Attributes:
        gpu_memory: bytes of each GPU that may be used.
        memory: bytes of main memory.
        free: free bytes at a path.
    """

    gpu_memory: tuple[int, ...]
    memory: int
    free: Callable[[Path], int] = free_bytes


def this_machine() -> Machine:
    """The machine of this process. GPUs are those that nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves."""
    return Machine(_gpus(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _gpus() -> tuple[int, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    if visible in ("", "-1") or shutil.which(command[0]) is None:
        return ()
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True).stdout
        sizes = tuple(int(line) * MIB for line in listed.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
    return sizes[: len(visible.split(","))] if visible is not None else sizes
