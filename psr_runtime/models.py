"""Where the parts of a model lie: checkpoints made by a training stage, and Hugging Face folders made elsewhere.

A checkpoint of ours has float32 `master` weights (input and reference of the next round) and a serving copy, a
fingerprint and a manifest that says which is where. Any other folder is one Hugging Face model that serves for both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from psr_runtime.artefact import digest_of_input, fetch, read_file, read_manifest
from psr_runtime.config import ModelSource
from psr_runtime.errors import DataError, InputMissing
from psr_runtime.prompts.tokens import FILES as TOKENIZER_FILES
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.storage import Storage, join

MAKERS = ("sft", "step-dpo")
"""Stages whose artefact is a checkpoint."""

FINGERPRINT = "fingerprint.json"

Part = Literal["training", "serving"]


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine.

    Attributes:
        folder: Hugging Face folder of the part that was asked for.
        digest: by which servers and clients name the model.
        fingerprint: content of `fingerprint.json`, None for a model made elsewhere.
    """

    folder: Path
    digest: str
    fingerprint: dict[str, Any] | None


def model_digest(storage: Storage, uri: str) -> str:
    """Digest of a model: its manifest's identity, or of its files where it has none."""
    return digest_of_input(storage, uri)


def bring_model(storage: Storage, source: ModelSource, to: Path, part: Part) -> LocalModel:
    """Bring one part of a model to this machine and verify it.

    Raises:
        InputMissing: no model there, or files of it are gone.
        DataError: truncated or changed files, or an artefact that is no checkpoint.
    """
    manifest = read_manifest(storage, source.uri)
    if manifest is None:
        folder = _bring_plain(storage, source.uri, to, weights=source.weights == "Pretrained")
        return LocalModel(folder, model_digest(storage, source.uri), None)
    layout = _layout(manifest.stage, manifest.metadata, source.uri)
    folder = fetch(storage, source.uri, to, below=layout[part])
    fingerprint = json.loads(read_file(storage, source.uri, FINGERPRINT))
    return LocalModel(folder, manifest.identity, fingerprint)


def bring_tokenizer(storage: Storage, source: ModelSource, to: Path) -> Tokenizer:
    """The tokenizer of a model, without its weights.

    Raises:
        InputMissing: no model there, or it has no tokenizer.
        DataError: the tokenizer is broken or has no chat template.
    """
    manifest = read_manifest(storage, source.uri)
    root = source.uri
    if manifest is not None:
        root = join(root, _layout(manifest.stage, manifest.metadata, source.uri)["serving"])
    folder = storage.local_path(root)
    if folder is None:
        folder = to / "tokenizer"
        for item in storage.list(root):
            name = item.uri[len(root) :].strip("/")
            if name in (*TOKENIZER_FILES, "config.json", "generation_config.json"):
                storage.download(item.uri, folder / name)
    if not folder.is_dir():
        raise InputMissing(f"{source.uri}: no such model folder")
    return Tokenizer(folder, source.chat_template)


def context_length(folder: Path) -> int | None:
    """Longest sequence in tokens that the configuration in `folder` allows; None where it does not say."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise InputMissing(f"{folder}: no config.json; this is no Hugging Face model folder") from error
    except ValueError as error:
        raise DataError(f"{folder}/config.json: not JSON ({error})") from error
    length = config.get("max_position_embeddings")
    return int(length) if length is not None else None


def _layout(stage: str, metadata: dict[str, Any], uri: str) -> dict[str, str]:
    layout = metadata.get("layout")
    if stage not in MAKERS or not isinstance(layout, dict):
        raise DataError(f"{uri}: made by stage {stage}; a checkpoint is made by {' or '.join(MAKERS)}")
    return layout


def _bring_plain(storage: Storage, uri: str, to: Path, *, weights: bool) -> Path:
    objects = storage.list(uri)
    names = {item.uri[len(uri) :].strip("/") for item in objects}
    if "config.json" not in names:
        raise InputMissing(f"{uri}: no config.json; give the folder of a Hugging Face model or of a checkpoint")
    if weights and not any(name.endswith(".safetensors") for name in names):
        raise InputMissing(f"{uri}: no *.safetensors; the checkpoint is incomplete (weights: Random starts fresh)")
    place = storage.local_path(uri)
    if place is None:
        place = to
        for item in objects:
            storage.download(item.uri, to / item.uri[len(uri) :].strip("/"))
    if weights:
        _check_safetensors(place)
    return place


def _check_safetensors(folder: Path) -> None:
    """Open every weights file, so that a truncated one is named here and not deep in an engine."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: the weights cannot be read ({error}); the file is truncated or foreign"
            ) from error
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted = set(json.loads(index.read_text())["weight_map"].values())
        gone = sorted(name for name in wanted if not (folder / name).is_file())
        if gone:
            raise InputMissing(f"{folder}: {', '.join(gone)} named by {index.name} and not there")
