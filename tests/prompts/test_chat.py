"""A prompt is the same wherever it is rendered: templates with a clock, with a switch for thinking, with chance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psr_runtime.artefacts.checkpoints import fetch_tokenizer
from psr_runtime.config import ModelSource, Prompts
from psr_runtime.prompts import chat
from psr_runtime.prompts.chat import prompt_digest, require_same_prompt
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import ConfigurationError, DataError
from psr_runtime.storage import Storage, file_uri
from tests.prompts.toys import CHATML, byte_level, load

SPECIAL = ["<|im_end|>", "<|endoftext|>", "<|im_start|>"]
ASKED = [{"role": "user", "content": "How much is 1 + 1?"}]
GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n"
CLOCKS = {
    "Llama 3.2": "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = "
    "strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}Today: "
    "{{ date_string }}\n" + CHATML,
    "SmolLM3": "Today Date: {{ strftime_now('%d %B %Y') }}\n" + CHATML,
    "with a time": "{{ strftime_now('%H:%M:%S.%f %A') }}\n" + CHATML,
    "only with a system message": "{% if messages[0].role == 'system' %}{{ strftime_now('%Y') }}{% endif %}" + CHATML,
}
SWITCH = (
    CHATML.split("{% if add")[0] + GENERATION + "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OTHER_SWITCH = CHATML.split("{% if add")[0] + GENERATION + "{% if thinking %}Think.{% endif %}{% endif %}"
OPENS = CHATML.split("{% if add")[0] + GENERATION + "<think>\n{% endif %}"


def tokenizer_of(folder: Path, template: str, thinking: bool | None = None) -> Tokenizer:
    return load(folder, byte_level(SPECIAL), template, {"eos_token": "<|endoftext|>"}, thinking=thinking)


@pytest.mark.parametrize("name", CLOCKS)
def test_a_template_sees_a_clock_that_stands_still(tmp_path: Path, name: str) -> None:
    tokenizer = tokenizer_of(tmp_path, CLOCKS[name])
    messages = [{"role": "system", "content": "Be brief."}, *ASKED]
    text = tokenizer.prompt_text(messages)
    assert "2024" in text or "00:00:00.000000 Friday" in text
    assert tokenizer.chat.reads_clock
    assert Tokenizer(tmp_path).prompt_ids(messages) == tokenizer.prompt_ids(messages)
    if "only" not in name:
        assert tokenizer.chat.frame["date"] == "2024-07-26"


def test_a_template_without_a_clock_renders_as_transformers_does(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, CHATML)
    text = tokenizer.inner.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    assert tokenizer.prompt_text(ASKED) == text
    assert tokenizer.prompt_ids(ASKED) == tokenizer.inner.encode(text, add_special_tokens=False)
    assert tokenizer.chat.frame.keys() == {"digest"}
    assert not tokenizer.chat.reads_clock


@pytest.mark.parametrize(
    "template",
    [
        "{{ [1, 2] | random }}{{ messages[0].content }}",
        "{{ lipsum(1) }}{{ messages[0].content }}",
        "{{ range }}{{ messages[0].content }}{{ raise_exception }}",  # where it lies in memory
    ],
)
def test_a_template_that_does_not_render_the_same_twice_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(DataError, match="does not render the same messages the same twice"):
        tokenizer_of(tmp_path, template)


def test_a_template_that_counts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of(tmp_path, CHATML)
    ticks: Iterator[int] = iter(range(100))
    render = tokenizer.inner.apply_chat_template
    monkeypatch.setattr(
        tokenizer.inner, "apply_chat_template", lambda *args, **how: f"{next(ticks)}{render(*args, **how)}"
    )
    with pytest.raises(DataError, match="does not render the same messages the same twice"):
        chat.ChatTemplate(tokenizer.inner, "model")


# --- thinking


@pytest.mark.parametrize(
    ("template", "thinking", "end"),
    [
        (SWITCH, None, "<|im_start|>assistant\n"),
        (SWITCH, True, "<|im_start|>assistant\n"),
        (SWITCH, False, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (OTHER_SWITCH, None, "<|im_start|>assistant\n"),
        (OTHER_SWITCH, True, "<|im_start|>assistant\nThink."),
        (OTHER_SWITCH, False, "<|im_start|>assistant\n"),
        (OPENS, None, "<|im_start|>assistant\n<think>\n"),
        (OPENS, True, "<|im_start|>assistant\n<think>\n"),
        (OPENS, False, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (CHATML, None, "<|im_start|>assistant\n"),
        (CHATML, False, "<|im_start|>assistant\n"),
    ],
)
def test_one_field_says_whether_a_template_thinks(
    tmp_path: Path, template: str, thinking: bool | None, end: str
) -> None:
    tokenizer = tokenizer_of(tmp_path, template, thinking)
    asked = "<|im_start|>user\nHow much is 1 + 1?<|im_end|>\n"
    assert tokenizer.prompt_text(ASKED) == asked + end
    assert tokenizer.chat.frame.get("thinking") == thinking
    assert tokenizer.eos_ids == [0, 1]


def test_a_template_that_cannot_think_is_not_told_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"prompts\.thinking: the chat template of .* has no thinking"):
        tokenizer_of(tmp_path, CHATML, True)


def test_the_field_is_in_no_digest_while_it_is_unset() -> None:
    assert Prompts().to_json() == Prompts(thinking=None).to_json() == {}
    assert Prompts(thinking=False).to_json() == {"thinking": False}


# --- another stage, and a log of before


def checkpoint(folder: Path, template: str, thinking: bool | None, **metadata: Any) -> ModelSource:
    """A manifest over a tokenizer, as a training leaves it."""
    tokenizer = tokenizer_of(folder / "master", template, thinking)
    about = {
        "layout": {"training": "master", "serving": "master"},
        "template_digest": tokenizer.template_digest,
        "frame": tokenizer.chat.frame,
        **metadata,
    }
    manifest = {
        "stage": "sft",
        "schema_version": 1,
        "digest": "sha256:0",
        "inputs": {},
        "configuration": {},
        "versions": {},
        "files": [],
        "metadata": about,
        "result": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return ModelSource(uri=file_uri(folder))


def test_a_model_is_asked_by_prompts_like_those_that_it_was_trained_on(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, SWITCH, False)
    assert fetch_tokenizer(Storage(), source, tmp_path / "s", False).chat.frame["thinking"] is False
    with pytest.raises(DataError, match=r"then .*'thinking': False.*, now .*None.*; set prompts\.thinking as it was"):
        fetch_tokenizer(Storage(), source, tmp_path / "s")
    other = source.model_copy(update={"chat_template": CHATML})  # another template was given on purpose
    assert fetch_tokenizer(Storage(), other, tmp_path / "s").chat.frame.keys() == {"digest"}


def test_a_checkpoint_of_before_says_nothing_of_its_prompts(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, SWITCH, None, frame=None)
    assert fetch_tokenizer(Storage(), source, tmp_path / "s", False).chat.frame["thinking"] is False


def test_a_log_goes_on_only_with_the_prompt_that_began_it(tmp_path: Path) -> None:
    plain, clock = (
        tokenizer_of(tmp_path / name, text).chat for name, text in (("a", CHATML), ("b", CLOCKS["SmolLM3"]))
    )
    sent = prompt_digest([1, 2])
    for logged in (sent, None):  # version 0.1.0 logged no prompt
        require_same_prompt(logged, sent, plain, "log")
    require_same_prompt(sent, sent, clock, "log")
    with pytest.raises(DataError, match=r"log, q1: was begun with another prompt .* \(the date of that day"):
        require_same_prompt(None, sent, clock, "log, q1")
    with pytest.raises(DataError, match=r"was begun with another prompt .*; remove the log"):
        require_same_prompt(prompt_digest([1]), sent, plain, "log, q1")
