"""What `psr run` shows: a line a transition, live bars on a terminal, plain progress lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from psr_operator.api import Resource, SelfRewardRun
from psr_operator.api.common import WorkStatus
from psr_operator.conditions import Transition
from psr_operator.reasons import Reason

LINE_SECONDS = 15.0
"""Without a terminal, progress is printed this often."""

QUIET = frozenset({Reason.STARTING, Reason.WAITING_FOR_PODS})
"""Transitions that say nothing to a person."""


class Display:
    """Prints to stdout. Use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True, auto_refresh=False)
        self._last_line = time.monotonic()
        self._started = time.monotonic()

    def transition(self, item: Transition) -> None:
        """One line: time, object, reason, message."""
        if item.reason in QUIET:
            return
        line = f"{datetime.now():%H:%M:%S}  {item.kind + '/' + item.name:<36} {item.reason:<18} {item.message}"
        self._console.print(Text(line.rstrip(), style="bold yellow" if item.warning else ""))

    def say(self, line: str) -> None:
        self._console.print(Text(line))

    def progress(self, objects: Iterable[Resource]) -> None:
        """Show how far the objects that work now are."""
        rows = [
            (item.ref, item.status.step, item.status.progress)
            for item in objects
            if isinstance(item.status, WorkStatus) and not isinstance(item, SelfRewardRun)
            if item.status.progress and not item.status.holds("Ready")
        ]
        if self._console.is_terminal:
            self._live.update(_bars(rows, time.monotonic() - self._started), refresh=True)
        elif rows and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            for name, step, progress in rows:
                self._console.print(Text(f"{datetime.now():%H:%M:%S}  {name:<36} {step:<18} {progress}"))

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def _bars(rows: list[tuple[str, str, str]], seconds: float) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, step, progress in rows:
        share = float(progress.split("%")[0]) / 100 if "%" in progress else 0.0
        filled = round(share * 24)
        table.add_row(name, step, Text("━" * filled, style="green") + Text("━" * (24 - filled), style="dim"), progress)
    table.add_row(Text(f"{seconds // 60:.0f} min {seconds % 60:.0f} s", style="dim"))
    return table


def models_table(run: SelfRewardRun) -> str:
    """The models of a run with their accuracy and pairs, as plain text."""
    names = [item.name for item in run.spec.evaluations]
    lines = ["model " + "".join(f"{name:>14}" for name in names) + f"{'pairs':>8}"]
    for model in run.status.models:
        scores = [f"{model.accuracy[name]:.1%}" if name in model.accuracy else "-" for name in names]
        pairs = str(model.pair_count) if model.pair_count is not None else "-"
        lines.append(f"{model.name:<6}" + "".join(f"{value:>14}" for value in scores) + f"{pairs:>8}")
    return "\n".join(lines)
