"""The chat template of a model: messages to the text of a prompt, and the same text wherever it is rendered again.

A template may print the date, may think or not, and may use chance. The clock that it sees stands still (`CLOCK`), one
field says whether it thinks (`prompts.thinking`), and one that renders the same messages differently is refused. What
a rendering depends on stands in artefacts as its frame, so that another stage finds out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from psr_runtime.protocol.errors import ConfigurationError, DataError

CLOCK = datetime(2024, 7, 26)
"""The moment that every template with a clock prints (ours). A prompt is then the same in every stage, shard and year.
It is the day that Llama 3.2's template prints by itself where it is given no clock."""

CHANCE = re.compile(r"\|\s*random\b|\blipsum\s*\(")
"""What of jinja draws by chance."""
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}\b")
"""An object of this process, printed: another process prints another address."""
THINK, THOUGHT_NOTHING = "<think>", "<think>\n\n</think>\n\n"
QUESTION = [{"role": "user", "content": "1"}]


class ChatTemplate:
    """Renders messages.

    Args:
        tokenizer: transformers' tokenizer with its chat template.
        name: what to call the model in messages.
        thinking: `prompts.thinking`.

    Attributes:
        reads_clock: whether the template prints the date.
        frame_text: a rendered question; empty where the template refuses one without a system message.
        frame: what a rendering depends on, for the manifest: the digest of a rendered question, `thinking` where it is
            set, and the date where the template prints one.

    Raises:
        ConfigurationError: the template is to think and cannot.
        DataError: the same messages are not rendered the same twice.
    """

    def __init__(self, tokenizer: Any, name: str, thinking: bool | None = None) -> None:
        self._tokenizer, self._name, self._thinking = tokenizer, name, thinking
        self.reads_clock = False
        self.frame_text = rendered = self._question()
        self._require_same(rendered)
        if thinking and rendered == self._question(thinking=False):
            raise ConfigurationError(f"prompts.thinking: the chat template of {name} has no thinking; leave it out")
        self.frame: dict[str, Any] = {"digest": "sha256:" + hashlib.sha256(rendered.encode()).hexdigest()}
        if thinking is not None:
            self.frame["thinking"] = thinking
        if self.reads_clock:
            self.frame["date"] = CLOCK.date().isoformat()

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Text of a prompt that ends where the assistant's turn begins.

        Raises:
            DataError: the template refuses these messages (no system role, say).
        """
        try:
            return self._prompt(messages, self._thinking)
        except Exception as error:  # jinja raises whatever a template asks it to
            raise DataError(f"the chat template refuses the messages: {error}") from error

    def after_turn(self) -> str:
        """What the template puts after an assistant's message; empty where it takes none, or changes it."""
        mark = "Step 1: 1"
        try:
            text = self._render([*QUESTION, {"role": "assistant", "content": mark}], self._thinking)
        except Exception:  # as above
            return ""
        _, there, after = text.rpartition(mark)
        return after if there else ""

    def _question(self, thinking: bool | None = None) -> str:
        """The rendered question; empty where the template refuses it."""
        wanted = self._thinking if thinking is None else thinking
        try:
            return self._prompt(QUESTION, wanted)
        except Exception:  # as above; whoever sends such a message is told by `prompt`
            return ""

    def _prompt(self, messages: Sequence[Mapping[str, str]], thinking: bool | None) -> str:
        text = self._render(messages, thinking, add_generation_prompt=True)
        if thinking is False and text.rstrip().endswith(THINK):
            return text.rstrip().removesuffix(THINK) + THOUGHT_NOTHING
        return text

    def _render(self, messages: Sequence[Mapping[str, str]], thinking: bool | None, **how: Any) -> str:
        # The switch has two names: Qwen 3, SmolLM3 and GLM call it one way, Granite and DeepSeek the other.
        switch = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
        text: str = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, strftime_now=self._date, **switch, **how
        )
        return text

    def _date(self, form: str) -> str:
        self.reads_clock = True
        return CLOCK.strftime(form)

    def _require_same(self, rendered: str) -> None:
        source = self._tokenizer.chat_template
        sources = source.values() if isinstance(source, Mapping) else [source]
        chance = any(CHANCE.search(str(item)) for item in sources)
        if chance or ADDRESS.search(rendered) or any(self._question() != rendered for _ in range(3)):
            raise DataError(
                f"{self._name}: the chat template does not render the same messages the same twice (it uses chance, or "
                "prints an object); what is trained on would not be what was sampled from. Set model.chatTemplate"
            )


def prompt_digest(ids: Sequence[int]) -> str:
    """16 hexadecimal digits of a prompt, by which a logged answer is tied to what was sent."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]


def require_same_prompt(logged: str | None, sent: str, chat: ChatTemplate, where: str) -> None:
    """Fail where a log was begun with another prompt than the one that is rendered now.

    Args:
        logged: `prompt_digest` of what was sent; None in a log of version 0.1.0, whose templates printed the day.
        sent: `prompt_digest` of what would be sent now.
        where: log and problem, for the message.

    Raises:
        DataError: another prompt.
    """
    if logged == sent or (logged is None and not chat.reads_clock):
        return
    why = "the date of that day was printed" if logged is None else "the template or its libraries were others"
    raise DataError(f"{where}: was begun with another prompt than the one that is rendered now ({why}); remove the log")


def require_same_frame(chat: ChatTemplate, frame: Mapping[str, Any] | None, where: str) -> None:
    """Fail where a model was trained on prompts that the same template rendered otherwise.

    Args:
        frame: of the manifest; None where it says nothing.
        where: the model, for the message.

    Raises:
        DataError: another rendering.
    """
    if frame is None or frame.get("digest") == chat.frame["digest"]:
        return
    was, now = ({key: item.get(key) for key in ("thinking", "date")} for item in (frame, chat.frame))
    why = f"then {was}, now {now}" if was != now else "its libraries were others"
    raise DataError(
        f"{where}: was trained on prompts that the chat template rendered otherwise ({why}); set prompts.thinking as "
        "it was then"
    )
