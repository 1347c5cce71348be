"""`psr` as a process of its own, with what a test needs to watch and end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PSR = [sys.executable, "-m", "psr_operator.cli"]
SECONDS = 300.0


@dataclass(frozen=True)
class StandIn:
    """A package `vllm` that takes the real one's place on PYTHONPATH: up at once, it answers with the turn's end.

    Attributes:
        folder: by its files the stand-in is steered and writes what it was asked.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """In it servers run the stand-in instead of vLLM."""
        package = str(Path(__file__).with_name("stand_in"))
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path, "PSR_STAND_IN": str(self.folder)}

    @property
    def asked(self) -> list[str]:
        """The prompts that were answered, in order."""
        place = self.folder / "asked"
        return place.read_text().splitlines() if place.exists() else []

    def hold_after(self, count: int) -> None:
        """Answer `count` prompts in all, then let the others wait."""
        (self.folder / "hold").write_text(str(count))

    def release(self) -> None:
        """Answer everything."""
        (self.folder / "hold").unlink()


def psr(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run `psr` to its end."""
    return subprocess.run(
        [*PSR, *map(str, arguments)],
        env=os.environ | dict(environment or {}),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def start_psr(
    *arguments: str | Path, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `psr` with stdout and stderr in one file."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            [*PSR, *map(str, arguments)],
            env=os.environ | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Poll until a condition holds; what it gave. Fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    """An object as a manifest gives it."""
    return {"apiVersion": "psr.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def write(path: Path, *objects: Mapping[str, Any]) -> Path:
    """Write objects as a manifest file (JSON is YAML), in one step, as an editor does that is watched."""
    temporary = path.with_suffix(".new")
    temporary.write_text("\n---\n".join(json.dumps(item, indent=1) for item in objects) + "\n")
    temporary.replace(path)
    return path
