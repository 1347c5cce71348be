"""`psr`: its grammar, and what becomes of errors. What a command does is its file in `psr_operator.commands`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from psr_operator.api.manifest import ManifestError
from psr_operator.commands import COMMANDS
from psr_operator.local.packages import missing_package, version
from psr_runtime.config.spelling import did_you_mean
from psr_runtime.protocol.errors import StageError

EXIT_CODES = """\
  0 every object is Ready · 64 manifest or configuration wrong · 65 data wrong · 66 input missing
  75 interrupted or temporary, run it again · 1 failed otherwise
"""
EPILOG = "\n".join(
    ["examples:", "".join(command.EXAMPLES for command in COMMANDS), "exit codes:", EXIT_CODES],
)
"""Under every help: a reader who has one command before his eyes sees the others, too."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command, that of `arguments` or of the process. Returns the exit code."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    execute: Callable[[argparse.Namespace], int] = options.execute
    try:
        return execute(options)
    except ManifestError as error:
        print(error, file=sys.stderr)
        return 64
    except StageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        message = missing_package(f"psr {options.command}", error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        return 64
    except BrokenPipeError:  # whoever read our output has had enough (psr … | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command, and as `execute` what does its work. A wrong word ends the process with 64.

    argparse lists every word that it knows; what was meant is one of them.
    """
    parser = command_line()
    names = [command.NAME for command in COMMANDS]
    if not arguments:
        print(_short_help(), file=sys.stderr)
    elif not arguments[0].startswith("-") and arguments[0] not in names:
        parser.error(
            f"{arguments[0]}: no such command; there are {', '.join(names)}{did_you_mean(arguments[0], names)}"
        )
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        subparser: _Parser = options.parser
        known = re.findall(r"(?<!\w)--?[a-z][a-z-]*", subparser.format_help().partition(EPILOG)[0])
        word = unknown[0].partition("=")[0]
        subparser.error(f"unrecognized arguments: {' '.join(unknown)}{did_you_mean(word, known)}")
    return options


def command_line() -> argparse.ArgumentParser:
    """The grammar of `psr`: `parse_args` gives the options of a command, and as `execute` what does its work."""
    parser = _Parser(
        prog="psr",
        description="Self-rewarding language models: a model improves by its own judgement, as declared in a manifest.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version(), help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(execute=command.execute, parser=subparser)
    return parser


def _short_help() -> str:
    """What `psr` alone says: the commands, and where to begin."""
    lines = [f"  {command.NAME:<9} {command.SUMMARY}" for command in COMMANDS]
    return "\n".join(
        ["commands:", *lines, "", "to begin: psr run -f run.yaml --dry-run, or psr --help for examples", ""]
    )


class _Parser(argparse.ArgumentParser):
    """Wrong arguments end with 64, as every other wrong configuration: 2 is what `psr wait` says when time is over."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(64, f"{self.prog}: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
