"""A cheap stage for tests of the stage contract: it repeats lines of a file, one journal record each.

Run as a program it is `python -m psr_runtime` with this one stage more.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psr_runtime.__main__ import main
from psr_runtime.artefacts.journal import Journal
from psr_runtime.config import StageConfig, Uri, input_uri, method, operation
from psr_runtime.config.results import StageResult
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.stages import Makes, Stage, register
from psr_runtime.storage import join


class EchoStage(StageConfig):
    source: Uri = input_uri()
    text: str = method("hello")
    count: int = method(3, ge=1)
    padding: int = method(0, ge=0)
    slow: bool = operation(False)


class EchoResult(StageResult):
    lines: int = 0


ECHO = Stage("echo", "repeat lines", EchoStage, EchoResult, Makes.REPORT, "echo_stage:run", working=("log",))


def run(config: EchoStage, context: StageContext) -> Outcome:
    """`slow`: say each line on standard output and wait for one on standard input before the next."""
    source = context.storage.read(config.source).decode()
    with Journal(context.storage, join(config.output, "log")) as journal:
        records = journal.replay()
        context.progress.start(config.count, "lines", done=len(records))

        async def work() -> None:
            for number in range(len(records), config.count):
                record = {"n": number, "line": f"{config.text} {source.strip()}" + "." * config.padding}
                await journal.append(record)
                records.append(record)
                context.progress.advance(length=len(record["line"]))
                if config.slow:
                    print(json.dumps(record), flush=True)
                    while not context.stop.is_set() and not sys.stdin.readline():
                        context.stop.wait(0.05)
                context.check_stop()

        context.run_async(work())
    folder = context.scratch / "folder"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts/lines.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "empty").touch()
    return Outcome(folder, metadata={"text": config.text}, result=EchoResult(lines=len(records)))


# --- what tests look at ---


@dataclass(frozen=True)
class Ended:
    """How a stage ended: exit code, standard output and error, termination message."""

    code: int
    out: str
    err: str
    message: dict[str, Any]

    @property
    def result(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        loaded: dict[str, Any] = json.loads(self.out)
        return loaded


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file of a folder: content, inode and time of change."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    register(ECHO)
    sys.exit(main())
