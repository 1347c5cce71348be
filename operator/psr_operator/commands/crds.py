"""`psr crds`: the CustomResourceDefinitions, printed or written to files."""

from __future__ import annotations

import argparse
from pathlib import Path

from psr_operator.api import crd

NAME = "crds"
SUMMARY = "print the CustomResourceDefinitions"
DESCRIPTION = "Print the CustomResourceDefinition of every kind as YAML, or write a file a kind."
EXAMPLES = """\
  psr crds | kubectl apply --server-side -f -   teach a cluster the kinds
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the files go."""
    parser.add_argument("--to", type=Path, metavar="DIR", help="folder for one file a kind (default: print all)")


def execute(options: argparse.Namespace) -> int:
    """Print the definitions, or write them and print the files' paths. Returns 0."""
    if options.to is None:
        print("---\n".join(crd.rendered().values()), end="")
    else:
        for path in crd.write(options.to):
            print(path)
    return 0
