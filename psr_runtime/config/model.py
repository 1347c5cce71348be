"""Models and prompts: what a stage starts from and what a model is shown."""

from __future__ import annotations

from typing import Literal

from psr_runtime.config.fields import Schema, Text, Uri, input_uri, method


class ModelSource(Schema):
    """A model to start from: a checkpoint of ours or any Hugging Face causal-LM folder."""

    uri: Uri = input_uri(description="Folder of the model: a checkpoint made by a stage, or a Hugging Face folder.")
    weights: Literal["Pretrained", "Random"] = method(
        "Pretrained",
        description="Random: the folder holds configuration and tokenizer only; SFT starts from fresh weights.",
    )
    chat_template: Text | None = method(
        None, description="Chat template (Jinja) for a tokenizer that has none. One template serves every stage."
    )


class Prompts(Schema):
    """The texts that a model sees. Placeholders are replaced once each, literally. Paper Fig. 4 and 5."""

    solve: Text | None = method(None, description="Solver prompt with {problem}. Unset: the paper's Figure 4.")
    judge: Text | None = method(
        None,
        description="Judge prompt with {Question and Partial Reasoning Steps}, {Step A} and {Step B}. "
        "Unset: the paper's Figure 5.",
    )
    system_message: Text | None = method(
        None, description="System message. Unset: none is sent, so the chat template's own applies."
    )
    thinking: bool | None = method(
        None,
        later=True,
        description="Whether a chat template that can think does (enable_thinking, or a prompt that opens <think>): "
        "one value for all stages. false: the prompt says that nothing is thought. Unset: as the template does. Ours.",
    )
