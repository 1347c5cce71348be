"""Where the libraries of a stage keep what they compile and fetch: in the work folder, as nothing is to lie elsewhere.

Kept between runs of the same folder, so that a second start of a server is quicker. Whoever has set one of the
variables has named a place, and keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CACHES = {
    "XDG_CACHE_HOME": "xdg",
    "HF_HOME": "huggingface",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "VLLM_CACHE_ROOT": "vllm",
    "VLLM_CONFIG_ROOT": "vllm-config",
}
"""Variables of libraries that would write below the home folder or the system's for temporary files."""
BELOW_XDG = {"HF_HOME": "huggingface", "VLLM_CACHE_ROOT": "vllm", "MPLCONFIGDIR": "matplotlib"}
"""Those that lie below XDG_CACHE_HOME where that alone is set."""
TOKEN = "HF_TOKEN_PATH"


def caches_below(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that put every cache below a folder which none in `environment` puts elsewhere.

    The token by which somebody has logged in to the Hugging Face hub is read where it is.
    """
    root = folder.absolute() / "cache"
    named = {name for name in CACHES if environment.get(name)}
    if "XDG_CACHE_HOME" in named:
        named |= BELOW_XDG.keys()
    variables = {name: str(root / place) for name, place in CACHES.items() if name not in named}
    if "HF_HOME" in variables and not environment.get(TOKEN):
        home = environment.get("HOME") or str(Path.home())
        variables[TOKEN] = str(Path(home, ".cache", "huggingface", "token"))
    return variables
