"""Whether a running vLLM may exchange the weights of one model folder for those of another.

Only weights can be exchanged in place. Whatever else decides what a server answers (configuration, tokenizer,
generation configuration, chat template) must be equal, and the embeddings untied: with tied ones vLLM silently keeps
the old output head.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from psr_runtime.config import ModelSource
from psr_runtime.prompts.tokens import FILES as TOKENIZER_FILES
from psr_runtime.protocol.errors import DataError, InputMissing

TEMPLATE_FILE = "chat_template.jinja"
IGNORED = frozenset(
    {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "_from_model_config"}
)
"""Keys of config.json and generation_config.json that a server started with an explicit dtype does not heed."""


def obstacle(old: Path, old_source: ModelSource, new: Path, new_source: ModelSource) -> str | None:
    """Why the weights of `new` cannot take the place of `old`'s in a running server; None where they can."""
    for name in ("config.json", "generation_config.json"):
        one, other = _heeded(old / name), _heeded(new / name)
        if one != other:
            keys = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
            return f"{name} differs in {', '.join(keys)}"
    if _heeded(new / "config.json").get("tie_word_embeddings") is not False:
        return "the embeddings are tied, or config.json does not say that they are not"
    for name in TOKENIZER_FILES:
        if name != TEMPLATE_FILE and _digest(old / name) != _digest(new / name):
            return f"{name} differs"
    if chat_template(old, old_source.chat_template) != chat_template(new, new_source.chat_template):
        return "the chat template differs"
    return None


def require_chat_template(folder: Path, configured: str | None) -> None:
    """Fail where a model has no chat template.

    Raises:
        DataError: none is configured, and the folder has none.
    """
    if not chat_template(folder, configured):
        raise DataError(f"{folder}: the tokenizer has no chat template; set model.chatTemplate")


def chat_template(folder: Path, configured: str | None) -> Any:
    """The chat template of a server of `folder`: the configured one, else the folder's; empty where there is none."""
    if configured is not None:
        return configured
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text()
    return _object(folder / "tokenizer_config.json").get("chat_template") or ""


def _heeded(path: Path) -> dict[str, Any]:
    return {key: value for key, value in _object(path).items() if key not in IGNORED and value is not None}


def _object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no file."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputMissing(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: not a JSON object")
    return document


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
