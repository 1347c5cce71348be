"""`psr_runtime bring`: another Python finds the package and its libraries, and its own come first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from psr_runtime.__main__ import main

ASK = """
import boto3, sys, psr_runtime.protocol.errors, botocore
print(psr_runtime.protocol.errors.__file__)
print(boto3.__file__)
print(sys.path[-1])
print("loaders:", bool(botocore.loaders.Loader().list_available_services("service-2")))
"""


def test_another_python_finds_what_was_brought(tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    assert main(["bring", str(folder)]) == 0
    assert main(["bring", str(folder)]) == 0  # a container that was restarted
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"{START}{ASK}"],
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    package, boto3, last, loaders = done.stdout.splitlines()
    assert package == str(folder / "psr_runtime/protocol/errors.py")
    assert boto3.startswith(str(folder / "libraries"))
    assert last == str(folder / "libraries")  # whatever the image has itself comes first
    assert loaders == "loaders: True"


START = "import sitecustomize\n"
"""`-S` leaves out this environment's packages and with them what the site module would run."""
