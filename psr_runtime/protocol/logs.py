"""What a process's log says of its failure: the error that began it, not the last of those that followed from it."""

from __future__ import annotations

import re
from collections.abc import Iterable

PROCESS = re.compile(r"^(?:\([^)]*\)\s+)+")
"""By which vLLM's processes mark their lines: `(EngineCore_DP0 pid=71) `."""
LEVEL = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+\S+ \S+ \[[^\]]*\]\s?")
EXCEPTION = re.compile(
    r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]*(?:Error|Exception|Interrupt|Exit|Failed|Timeout)(?:: .*)?"
    r"|Fatal Python error: .*"
    r"|[\w./-]+(?: [\w-]+)?: error: .*"
)
"""How Python ends a traceback, or dies, and how a program refuses its arguments. Lines of a traceback are indented."""
LAST_LINES = 3
LENGTH = 1000


def first_error(lines: Iterable[str]) -> str | None:
    """The first line that says an error, without the marks of its log; None where no line does.

    A library that goes on after an error says it as a warning: that is none.
    """
    logged = None
    for line in lines:
        rest = PROCESS.sub("", line.rstrip())
        level = LEVEL.match(rest)
        if level is not None:
            if level[1] in ("DEBUG", "INFO", "WARNING"):
                continue
            rest = rest[level.end() :]
        if EXCEPTION.fullmatch(rest):
            return rest[:LENGTH]
        if level is not None and logged is None and rest:
            logged = rest[:LENGTH]
    return logged


def failure_words(lines: Iterable[str]) -> str:
    """Why a process ended, by its log: the first error, else the last lines. Empty for an empty log."""
    kept = list(lines)
    return first_error(kept) or " | ".join(line.strip() for line in kept[-LAST_LINES:])[-LENGTH:]
