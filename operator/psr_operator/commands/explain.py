"""`psr explain`: the fields of a kind with type, default and description."""

from __future__ import annotations

import argparse

from psr_operator.api import KINDS
from psr_operator.api.explain import explain

NAME = "explain"
SUMMARY = "describe a kind's fields"
DESCRIPTION = "Print fields with type, default and description."
EXAMPLES = """\
  psr explain SelfRewardRun.spec.search         every field with type, default and source
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One argument: a kind, or a field of it."""
    parser.add_argument("path", metavar="KIND[.FIELD…]", help=f"one of {', '.join(sorted(KINDS))}")


def execute(options: argparse.Namespace) -> int:
    """Print the description. Returns 0."""
    print(explain(options.path))
    return 0
