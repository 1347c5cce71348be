"""Tiny random checkpoints as a training stage would publish them, with right or wrong fingerprints."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from psr_runtime.artefacts.fingerprint import Fingerprint, Probe
from psr_runtime.artefacts.publishing import publish
from psr_runtime.storage import Storage, file_uri

VOCABULARY = 100
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


@dataclass(frozen=True)
class Checkpoints:
    """URIs of published checkpoints.

    Attributes:
        m1, m2: a model and its update.
        small: an update of `m2` so small that fingerprints cannot tell them apart.
        warm: the weights of `m2` once more, in a folder whose generation_config has a repetition penalty.
        liar: holds the weights of `m1` and claims to be `m2`; sizes, digests and manifest are consistent.
        tied: a model with tied embeddings.
        tied_update: its update.
    """

    m1: str
    m2: str
    small: str
    warm: str
    liar: str
    tied: str
    tied_update: str


def random_model(*, seed: int, tied: bool = False) -> Any:
    """A Qwen2 of two layers whose answers are far from uniform."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(config).eval()


def updated(model: Any, *, by: float, seed: int) -> Any:
    """A copy of a model after a small update: every weight moved by noise of this size."""
    other = Qwen2ForCausalLM(model.config).eval()
    other.load_state_dict(model.state_dict())
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn_like(weight) * by)
    return other


def fingerprint(new: Any, parent: Any | None) -> Fingerprint:
    """Eight random probes of 32 tokens."""
    ids = torch.randint(3, VOCABULARY, (8, 32), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def log_probabilities(model: Any) -> list[list[float]]:
        values = model(input_ids=ids).logits.float().log_softmax(-1)[:, :-1]
        return values.gather(-1, ids[:, 1:, None])[..., 0].tolist()

    parents = log_probabilities(parent) if parent is not None else [None] * len(ids)
    probes = zip(ids.tolist(), log_probabilities(new), parents, strict=True)
    return Fingerprint(dtype="float32", probes=[Probe(ids=i, new=n, parent=p) for i, n, p in probes])


def write_folder(model: Any, folder: Path, **generation: Any) -> Path:
    """A Hugging Face folder with weights, a word tokenizer and a chat template.

    Args:
        generation: further fields of generation_config.json.
    """
    model.save_pretrained(folder)
    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *map(str, range(VOCABULARY - 3))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    if generation:
        place = folder / "generation_config.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | generation))
    return folder


def checkpoint(place: Path, model: Any, parent: Any | None, *, marks: Any = None, **generation: Any) -> str:
    """Publish a checkpoint below `place`; its URI.

    Args:
        model: the weights that lie in it.
        parent: parent of the fingerprint.
        marks: the model that the fingerprint speaks of; None for the weights' own (another one: the checkpoint lies).
    """
    work = place.with_name(place.name + "-work")
    write_folder(model, work / "master", **generation)
    mark = fingerprint(model if marks is None else marks, parent)
    (work / "fingerprint.json").write_text(mark.model_dump_json())
    uri = file_uri(place)
    publish(
        Storage(),
        uri,
        work,
        stage="sft",
        schema_version=1,
        digest=f"sha256:{place.name}",
        inputs={},
        configuration={},
        versions={},
        metadata={"layout": {"training": "master", "serving": "master"}},
        result={},
    )
    shutil.rmtree(work)
    return uri


def publish_checkpoint(storage: Storage, uri: str, work: Path, model: Any, parent: Any | None) -> str:
    """Publish a checkpoint at `uri`, with its weights under `serving/`; its digest.

    Args:
        work: a folder for its files; what is there already is part of it.
        parent: parent of the fingerprint.
    """
    write_folder(model, work / "serving")
    (work / "fingerprint.json").write_text(fingerprint(model, parent).model_dump_json())
    manifest = publish(
        storage,
        uri,
        work,
        stage="sft",
        schema_version=1,
        digest=f"sha256:{work.name}",
        inputs={},
        configuration={},
        versions={},
        metadata={"layout": {"training": "serving", "serving": "serving"}},
        result={},
    )
    return manifest.identity
