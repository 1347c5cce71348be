"""The model without its weights: configuration, tokenizer, template, and whether weights lie beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from psr_runtime.artefacts.manifest import Manifest, read_manifest
from psr_runtime.artefacts.pruned import missing_explained
from psr_runtime.check.findings import Finding, error, fact, failed
from psr_runtime.check.sizes import readable
from psr_runtime.check.subject import Subject
from psr_runtime.protocol.errors import ConfigurationError, DataError, InputMissing, StageError
from psr_runtime.storage import name_below

CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the architectures of models that write are called; the last one also where images or sound may be read."""
WEIGHTS = ".safetensors"
INDEX = "model.safetensors.index.json"
CHECK = "model"


def configuration_is_a_causal_model(subject: Subject) -> Iterator[Finding]:
    """`config.json` is that of a causal language model."""
    field = subject.field("model.uri")
    for loaded in (subject.settings, subject.model_config):
        if loaded.cause is not None:
            yield failed(CHECK, field, loaded.cause, "give the folder of a Hugging Face model or of a checkpoint")
    config = subject.model_config.value
    if config is None:
        return
    names = config.get("architectures") or []
    is_causal = any(str(name).endswith(CAUSAL) for name in names) and not config.get("is_encoder_decoder")
    if names and not is_causal:
        message = f"{', '.join(map(str, names))} is no causal language model"
        yield error(CHECK, field, message, "give a model that writes text from left to right (…ForCausalLM)", DataError)
        return
    shape, what = subject.shape, ", ".join(map(str, names)) or str(config.get("model_type", "a model"))
    size = f", about {readable(shape.weights).removesuffix(' bytes').replace('B', '')} weights" if shape else ""
    yield fact(CHECK, field, f"{what}{size}, context {subject.model_context or 'unknown'}")


def weights_are_there(subject: Subject) -> Iterator[Finding]:
    """Weights lie beside the configuration, all of those that the index names. They are not read."""
    model = subject.config.model
    if model is None or model.weights == "Random" or subject.settings.value is None:
        return
    field = subject.field("model.uri")
    try:
        manifest = read_manifest(subject.storage, model.uri)
        if manifest is not None:
            yield from _listed(subject, manifest, model.uri, field)
            return
        sizes = {name_below(model.uri, item.uri): item.size for item in subject.storage.list(model.uri)}
        wanted = _indexed(subject, model.uri) if INDEX in sizes else set()
    except StageError as cause:
        yield failed(CHECK, field, cause)
        return
    there = {name for name in sizes if name.endswith(WEIGHTS)}
    if not there:
        pickled = sorted(name for name in sizes if name.endswith((".bin", ".pt", ".pth")))
        message = f"{model.uri}: no *{WEIGHTS}" + (f", only {pickled[0]}" if pickled else "")
        todo = "save the model with safetensors, or set model.weights: Random to start from fresh ones"
        yield error(CHECK, field, message, todo, InputMissing)
    elif gone := sorted(wanted - there):
        message = f"{model.uri}: {', '.join(gone)} named by {INDEX} and not there"
        yield error(CHECK, field, message, "fetch the model again, completely", InputMissing)
    else:
        yield fact(CHECK, field, f"{readable(sum(sizes[name] for name in there))} of weights")


def _listed(subject: Subject, manifest: Manifest, uri: str, field: str) -> Iterator[Finding]:
    """The weights that a checkpoint's manifest lists, each with its size.

    Raises:
        WeightsPruned: retention has removed them.
        InputMissing: one is gone.
    """
    sizes = {item.uri: item.size for item in subject.storage.list(manifest.place(uri, ""))}
    weights = [entry for entry in manifest.files if entry.path.endswith(WEIGHTS)]
    with missing_explained(subject.storage, uri):
        for entry in weights:
            size = sizes.get(manifest.place(uri, entry.path))
            if size is None:
                raise InputMissing(f"{uri}: {entry.path} is listed by the manifest and not there; make it again")
            if size != entry.size:
                message = f"{uri}: {entry.path} has {size} bytes where the manifest says {entry.size}"
                yield error(CHECK, field, message, "make the checkpoint again", DataError)
    yield fact(CHECK, field, f"{readable(sum(entry.size for entry in weights))} of weights, made by {manifest.stage}")


def tokenizer_reads(subject: Subject) -> Iterator[Finding]:
    """The tokenizer can be loaded, has a chat template, and knows no ids that the model does not."""
    field, tokenizer, config = subject.field("model.uri"), subject.tokenizer, subject.model_config.value
    if tokenizer.cause is not None:
        todo = "give a tokenizer.json that the tokenizers library reads"
        names_what_to_do = "chatTemplate" in str(tokenizer.cause) or isinstance(tokenizer.cause, ConfigurationError)
        yield failed(CHECK, field, tokenizer.cause, "" if names_what_to_do else todo)
    rows = (config or {}).get("vocab_size")
    if tokenizer.value is None or not isinstance(rows, int):
        return
    words = len(tokenizer.value.inner)
    if words > rows:
        message = f"the tokenizer has {words} ids and the model {rows} rows of embeddings"
        yield error(CHECK, field, message, "give the tokenizer that belongs to the model", DataError)
    else:
        yield fact(CHECK, field, f"tokenizer of {words} ids")


def prompts_render(subject: Subject) -> Iterator[Finding]:
    """Both prompts hold their placeholders, and the chat template takes them."""
    if subject.templates.cause is not None:
        yield failed("prompts", subject.field("prompts"), subject.templates.cause, "correct the prompt")
    tokenizer, templates = subject.tokenizer.value, subject.templates.value
    if tokenizer is None or templates is None:
        return
    for messages in (templates.solve_messages("1"), templates.judge_messages("1", [], "Step 1: 1", "Step 1: 2")):
        try:
            tokenizer.prompt_ids(messages)
        except DataError as cause:
            todo = "change the chat template, or leave out prompts.systemMessage"
            yield failed("prompts", subject.field("model.chatTemplate"), cause, todo)
            return


def _indexed(subject: Subject, uri: str) -> set[str]:
    """The files that the index of a model in several files names.

    Raises:
        DataError: it cannot be read.
    """
    place = f"{uri.rstrip('/')}/{INDEX}"
    try:
        document: Mapping[str, Any] = json.loads(subject.storage.read(place))
        return set(document["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise DataError(f"{place}: no index of weights ({cause}); fetch the model again") from cause
