"""Where the parts of a model lie: checkpoints of a training stage, and Hugging Face folders from elsewhere.

A checkpoint of ours has float32 `master` weights (input and reference of the next round) and a serving copy, a
fingerprint and a manifest that says which is where. Any other folder is one Hugging Face model that serves for both.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from psr_runtime.artefacts.fetching import fetch, read_file
from psr_runtime.artefacts.manifest import (
    PARALLEL,
    Manifest,
    digest_of_content,
    digest_of_input,
    is_content,
    read_manifest,
)
from psr_runtime.artefacts.pruned import missing_explained
from psr_runtime.config import ModelSource
from psr_runtime.prompts.chat import require_same_frame
from psr_runtime.prompts.tokens import FILES as TOKENIZER_FILES
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import ConfigurationError, DataError, InputMissing
from psr_runtime.stages import Makes, makers
from psr_runtime.storage import Storage, join, name_below
from psr_runtime.storage.nearby import instead

MAKERS = makers(Makes.CHECKPOINT)
"""Stages whose artefact is a checkpoint."""

FINGERPRINT = "fingerprint.json"
WEIGHTS = ".safetensors"
INDEX = "model.safetensors.index.json"
OTHER_WEIGHTS = (".bin", ".bin.index.json", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth")

Part = Literal["training", "serving"]


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine.

    Attributes:
        folder: Hugging Face folder of the part that was asked for.
        digest: by which servers and clients name the model.
        fingerprint: content of `fingerprint.json`, None for a model made elsewhere.
        weights: where the weights lie that are not in the folder; None where they are.
    """

    folder: Path
    digest: str
    fingerprint: dict[str, Any] | None
    weights: RemoteWeights | None = None


@dataclass(frozen=True)
class RemoteWeights:
    """Weights that stay where they are.

    Attributes:
        uri: folder that holds them, and no other weights.
        size: of all of them, in bytes.
        folder: the same folder on this machine; None where the store is elsewhere.
    """

    uri: str
    size: int
    folder: Path | None = None


def model_digest(storage: Storage, uri: str) -> str:
    """Digest of a model: its manifest's identity, or of its files where it has none."""
    return digest_of_input(storage, uri)


def fetch_model(storage: Storage, source: ModelSource, to: Path, part: Part) -> LocalModel:
    """Fetch one part of a model to this machine and verify it.

    Raises:
        InputMissing: no model there, or files of it are gone.
        DataError: truncated or changed files, or an artefact that is no checkpoint.
    """
    manifest = read_manifest(storage, source.uri)
    if manifest is None:
        folder, digest = _fetch_plain(storage, source.uri, to, weights=source.weights == "Pretrained")
        return LocalModel(folder, digest, None)
    layout = _layout(manifest.stage, manifest.metadata, source.uri)
    folder = fetch(storage, source.uri, to, below=layout[part])
    fingerprint = json.loads(read_file(storage, source.uri, FINGERPRINT))
    return LocalModel(folder, storage.version(source.uri) or manifest.identity, fingerprint)


def fetch_all_but_weights(storage: Storage, source: ModelSource, to: Path, part: Part) -> LocalModel:
    """Fetch one part of a checkpoint to this machine and leave its weights where they are.

    Of the weights only names and sizes are checked, not their bytes: whoever loads them asks the fingerprint.

    Raises:
        ConfigurationError: a model made elsewhere, which has no fingerprint.
        InputMissing: no model there, or files of it are gone.
        DataError: files do not fit the manifest, or an artefact that is no checkpoint.
    """
    manifest = read_manifest(storage, source.uri)
    if manifest is None:
        raise ConfigurationError(
            f"{source.uri}: a model without fingerprint is not streamed, as nothing would tell which weights came; set "
            "engine.weights to Download"
        )
    layout = _layout(manifest.stage, manifest.metadata, source.uri)
    folder = fetch(storage, source.uri, to, below=layout[part], only=lambda path: not path.endswith(WEIGHTS))
    remote = manifest.place(source.uri, layout[part])
    wanted = {
        entry.path.removeprefix(layout[part] + "/"): entry.size
        for entry in manifest.files
        if entry.path.startswith(layout[part] + "/") and entry.path.endswith(WEIGHTS)
    }
    with missing_explained(storage, source.uri):
        _check_sizes(storage, remote, wanted)
    _check_index(folder, set(wanted))
    fingerprint = json.loads(read_file(storage, source.uri, FINGERPRINT))
    weights = RemoteWeights(remote, sum(wanted.values()), storage.local_path(remote))
    return LocalModel(folder, storage.version(source.uri) or manifest.identity, fingerprint, weights)


def fetch_tokenizer(storage: Storage, source: ModelSource, to: Path, thinking: bool | None = None) -> Tokenizer:
    """The tokenizer of a model, without its weights.

    Args:
        thinking: `prompts.thinking`.

    Raises:
        InputMissing: no model there, or it has no tokenizer.
        ConfigurationError: the chat template is to think and cannot.
        DataError: the tokenizer is broken or has no chat template, or the model was trained on prompts that the same
            template rendered otherwise.
    """
    manifest = read_manifest(storage, source.uri)
    folder = _settings(storage, source, manifest, to)
    tokenizer = Tokenizer(folder, source.chat_template, thinking)
    if manifest is not None and manifest.metadata.get("template_digest") == tokenizer.template_digest:
        require_same_frame(tokenizer.chat, manifest.metadata.get("frame"), source.uri)
    return tokenizer


def fetch_settings(storage: Storage, source: ModelSource, to: Path) -> Path:
    """Folder with a model's configuration and tokenizer on this machine; its weights are not fetched.

    Raises:
        InputMissing: no model there.
        DataError: an artefact that is no checkpoint.
    """
    return _settings(storage, source, read_manifest(storage, source.uri), to)


def _settings(storage: Storage, source: ModelSource, manifest: Manifest | None, to: Path) -> Path:
    root = source.uri
    if manifest is not None:
        root = manifest.place(root, _layout(manifest.stage, manifest.metadata, source.uri)["serving"])
    folder = storage.local_path(root)
    if folder is None:
        folder = to / "tokenizer"
        for item in storage.list(root):
            name = name_below(root, item.uri)
            if name in (*TOKENIZER_FILES, "config.json", "generation_config.json"):
                storage.download(item.uri, folder / name)
    if not folder.is_dir():
        raise InputMissing(f"{source.uri}: no such model folder")
    return folder


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


def _fetch_plain(storage: Storage, uri: str, to: Path, *, weights: bool) -> tuple[Path, str]:
    """Folder and digest of a model made elsewhere."""
    objects = {name_below(uri, item.uri): item.uri for item in storage.list(uri)}
    if "config.json" not in objects:
        raise InputMissing(
            f"{uri}: no config.json; give the folder of a Hugging Face model or of a checkpoint{instead(storage, uri)}"
        )
    if weights and not any(name.endswith(WEIGHTS) for name in objects):
        raise InputMissing(f"{uri}: no *{WEIGHTS}; the checkpoint is incomplete (weights: Random starts fresh)")
    place = storage.local_path(uri)
    version = storage.version(uri)
    if place is None:
        place = to
        if version is not None:
            objects = {name: item for name, item in objects.items() if _is_of_model(name)}
        with ThreadPoolExecutor(PARALLEL) as pool:
            fetched = {name: pool.submit(storage.download, item, to / name) for name, item in objects.items()}
            contents = {name: task.result() for name, task in fetched.items() if is_content(name)}
        digest = version or digest_of_content(contents)
    else:
        digest = digest_of_input(storage, uri)
    if weights:
        _check_safetensors(place)
    return place, digest


def _is_of_model(name: str) -> bool:
    """Whether a file of a hub's repository is needed: weights in other formats, and what lies in folders, are not."""
    return is_content(name) and "/" not in name and not name.endswith(OTHER_WEIGHTS)


def _check_sizes(storage: Storage, uri: str, wanted: dict[str, int]) -> None:
    """The weights in a folder are those that are wanted, and no others: a loader loads all that is there."""
    listed = {name_below(uri, item.uri): item.size for item in storage.list(uri)}
    sizes = {name: size for name, size in listed.items() if name.endswith(WEIGHTS)}
    if gone := sorted(wanted.keys() - sizes.keys()):
        raise InputMissing(f"{uri}: {', '.join(gone)} listed by the manifest and not there; make the checkpoint again")
    if foreign := sorted(sizes.keys() - wanted.keys()):
        raise DataError(f"{uri}: {', '.join(foreign)} not listed by the manifest; remove what does not belong there")
    for name, size in wanted.items():
        if sizes[name] != size:
            raise DataError(
                f"{join(uri, name)}: {sizes[name]} bytes where the manifest says {size}; the file is cut off or foreign"
            )


def _check_safetensors(folder: Path) -> None:
    """Open every weights file, so that a truncated one is named here and not deep in an engine."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob(f"*{WEIGHTS}")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: the weights cannot be read ({error}); the file is truncated or foreign"
            ) from error
    _check_index(folder, {path.name for path in folder.glob(f"*{WEIGHTS}")})


def _check_index(folder: Path, there: set[str]) -> None:
    index = folder / INDEX
    if index.is_file():
        gone = sorted(set(json.loads(index.read_text())["weight_map"].values()) - there)
        if gone:
            raise InputMissing(f"{folder}: {', '.join(gone)} named by {index.name} and not there")
