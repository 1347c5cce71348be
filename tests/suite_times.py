"""A pytest plug-in: wall and processor seconds of every test file, in a table at the end and in out/times.

Processor seconds are those of the process that runs the tests and of everything it has started. With workers
(pytest-xdist) each one counts for itself, and the first process adds up.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import pytest

FOLDER = Path("out") / "times"
SHOWN = 15
"""Files in the table."""


class SuiteTimes:
    """Adds up what each file took; the one in the first process also tells it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._process = psutil.Process()
        self._file = ""
        self._since = (time.monotonic(), self._processor())
        self.files: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        file = item.nodeid.split("::")[0]
        if file != self._file:
            self._close()
            self._file = file

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._close()
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["times"] = dict(self.files)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker has ended (none that crashed tells its times)."""
        for file, (wall, processor) in getattr(node, "workeroutput", {}).get("times", {}).items():
            self.files[file][0] += wall
            self.files[file][1] += processor

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.files:
            return
        rows = sorted(self.files.items(), key=lambda row: -row[1][0])
        name = "cluster-tests.json" if self._config.option.markexpr == "cluster" else "tests.json"
        written = self._config.rootpath / FOLDER / name
        written.parent.mkdir(parents=True, exist_ok=True)
        entries = [{"file": file, "wall": round(wall, 1), "processor": round(cpu, 1)} for file, (wall, cpu) in rows]
        written.write_text(json.dumps(entries, indent=1) + "\n")
        terminalreporter.section("slowest files (seconds)")
        terminalreporter.write_line("   wall  processor")
        for file, (wall, processor) in rows[:SHOWN]:
            terminalreporter.write_line(f"{wall:7.1f}    {processor:7.1f}  {file}")
        walls, processors = (sum(row[1][column] for row in rows) for column in (0, 1))
        terminalreporter.write_line(f"{walls:7.1f}    {processors:7.1f}  all {len(rows)} files")

    def _close(self) -> None:
        """What has passed since the last call belongs to the present file."""
        now = (time.monotonic(), self._processor())
        if self._file:
            self.files[self._file][0] += now[0] - self._since[0]
            self.files[self._file][1] += max(0.0, now[1] - self._since[1])
        self._since = now

    def _processor(self) -> float:
        total = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += sum(process.cpu_times()[:4])
            except psutil.Error:
                continue  # it has ended meanwhile
        return total


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SuiteTimes(config), "suite-times")
