"""Bring `psr_runtime` into a container whose image holds vLLM and nothing of ours.

A server's pod has an init container of the runtime image that runs this; the server's `PYTHONPATH` names the folder.
What vLLM has itself (pydantic, aiohttp, safetensors …) is taken from there; libraries that it may lack are copied,
and imported only where the image has none of its own.
"""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import psr_runtime

LIBRARIES = ("boto3", "botocore", "jmespath", "s3transfer", "python-dateutil", "six", "urllib3")
"""Distributions that serving needs besides vLLM's own requirements; pure Python, for any version from 3.11 on."""

PATHS = '''"""Run by every Python whose PYTHONPATH names this folder: what the image has comes first."""

import os
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "libraries"))
'''


def bring_runtime(folder: Path) -> None:
    """Copy the package and its libraries.

    Args:
        folder: gets `psr_runtime/`, `libraries/` and a `sitecustomize.py`; what is there of an earlier try is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    package = Path(psr_runtime.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, folder / "psr_runtime", ignore=ignored, dirs_exist_ok=True)
    for name in LIBRARIES:
        distribution = metadata.distribution(name)
        for file in distribution.files or ():
            if file.suffix == ".pyc" or ".." in file.parts:
                continue
            place = folder / "libraries" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(distribution.locate_file(file)), place)
    (folder / "sitecustomize.py").write_text(PATHS)
