"""The commands of `psr`, a file each: the words of its help, its arguments, and the function that does the work.

To add one, write its file and name it in `COMMANDS`. The grammar that they share, and what becomes of errors, is
`psr_operator.cli`.
"""

from __future__ import annotations

import argparse
from typing import Protocol

from psr_operator.commands import check, crds, data, explain, operator, report, run, wait


class Command(Protocol):
    """What the file of a command holds.

    Attributes:
        NAME: what a user types after `psr`.
        SUMMARY: its line in `psr --help`, without a full stop.
        DESCRIPTION: the text above the options in its own help.
        EXAMPLES: the lines that it adds to the examples under every help, each with its line break.
    """

    NAME: str
    SUMMARY: str
    DESCRIPTION: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its options and arguments to its parser."""

    def execute(self, options: argparse.Namespace) -> int:
        """Do the work. Returns the exit code.

        Raises:
            ManifestError: the options, or a file that they name, are wrong (exit code 64).
            StageError: an artefact cannot be read; it knows its exit code.
        """


COMMANDS: tuple[Command, ...] = (run, check, wait, report, data, operator, explain, crds)
"""In the order of the help."""
