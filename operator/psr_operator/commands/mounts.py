"""`--mount`: which folder of this machine stands for a volume. Several commands have it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from psr_runtime.storage import mounts_from


def add_mounts(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="/PATH=FOLDER",
        help="folder of this machine that stands for a volume's mountPath in file:// URIs",
    )


def mounts_of(options: argparse.Namespace) -> Mapping[str, Path]:
    """The folder of every mount path that was given."""
    return mounts_from(",".join(options.mount))
