"""Preferences and judgements: PSR's pairs, Step-DPO-10K, TRL's preference format, chosen and rejected judgements."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from psr_runtime.data.records import EFTRecord, Pair, Preference, SearchProblem
from psr_runtime.data.schemas.base import (
    Dropped,
    Fields,
    Purpose,
    Reads,
    Schema,
    WrongField,
    has_problem,
    is_text,
    text_of,
)
from psr_runtime.data.schemas.solutions import NO_JUDGEMENT, NO_STEPS, own_problem, problem_text
from psr_runtime.data.texts import step_text, steps_of
from psr_runtime.prompts.grammar import HEADER, verdict

NO_ANSWER = "it holds no answer"
NO_PROBLEM = "its prompt is no problem alone"
ONE_WORSE = "a preference is no solution that is known to be right"
Messages = list[dict[str, str]]

# --- Step-DPO ------------------------------------------------------------------------------------------------


def _step_dpo(fields: Fields) -> list[Preference]:
    """The steps before, and the two next steps. Their header ends `initial_reason_steps`; PSR's steps own it."""
    before = fields.get("initial_reason_steps") or ""
    if not isinstance(before, str):
        raise WrongField("initial_reason_steps", "must hold text")
    first = HEADER.search(before)
    steps = steps_of(before[first.start() :]) if first else []
    if steps and HEADER.sub("", steps[-1]).strip() == "":
        steps.pop()  # the header of the step that is to come
    number = len(steps) + 1
    chosen, rejected = (step_text(text_of(fields, name), number) for name in ("chosen", "rejected"))
    return _preferred(problem=text_of(fields, "prompt"), steps=steps, chosen=chosen, rejected=rejected)


def _preferred(*, chosen: str, rejected: str, **fields: Any) -> list[Preference]:
    """A preference, unless both sides are the same."""
    if chosen.strip() == rejected.strip():
        raise Dropped("chosen and rejected are the same text")
    return [Preference(chosen=chosen, rejected=rejected, **fields)]


# --- TRL -----------------------------------------------------------------------------------------------------


def _messages(fields: Fields, name: str) -> Messages:
    value: Any = fields.get(name)
    if not isinstance(value, list) or not value:
        raise WrongField(name, "must hold a list of messages, as chosen and rejected do")
    for number, item in enumerate(value):
        if not isinstance(item, dict) or not is_text(item, "role", "content"):
            raise WrongField(f"{name}[{number}]", "must be a message with role and content")
    return [{"role": item["role"], "content": item["content"]} for item in value]


def _is_chat(fields: Fields) -> bool:
    return isinstance(fields.get("chosen"), list) or isinstance(fields.get("rejected"), list)


def _prompt(fields: Fields) -> Any:
    """What was asked: `prompt`, else `problem` or `question`; None where nothing says it."""
    return next((fields[name] for name in ("prompt", "problem", "question") if fields.get(name) is not None), None)


def _chat(fields: Fields) -> tuple[Messages, str, str]:
    """Messages of the prompt, and the two answers. Without `prompt` it is what both begin with."""
    chosen, rejected = _messages(fields, "chosen"), _messages(fields, "rejected")
    prompt = _prompt(fields)
    if isinstance(prompt, str):
        shared = [{"role": "user", "content": prompt}]
    elif prompt is not None:
        shared = _messages(fields, "prompt")
    else:
        shared = []
    if prompt is None or chosen[0]["role"] != "assistant":  # both repeat what was asked
        begin = _common(chosen, rejected)
        shared, chosen, rejected = chosen[:begin], chosen[begin:], rejected[begin:]
    for name, rest in (("chosen", chosen), ("rejected", rejected)):
        if len(rest) != 1 or rest[0]["role"] != "assistant":
            raise WrongField(name, "must end in one message of the assistant, after what both answers begin with")
    if not shared:
        raise WrongField("prompt", "there is none, and chosen and rejected begin differently")
    return shared, chosen[0]["content"], rejected[0]["content"]


def _common(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many messages, or characters, two begin with in common."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(left), len(right)))


def _plain(fields: Fields) -> tuple[str, str, str]:
    """Prompt and two answers. Without `prompt` it is what both begin with, up to the last space or line break."""
    chosen, rejected = text_of(fields, "chosen"), text_of(fields, "rejected")
    prompt = _prompt(fields)
    if prompt is not None:
        return text_of({"prompt": prompt}, "prompt"), chosen, rejected
    shared = chosen[: _common(chosen, rejected)]
    border = max(shared.rfind(sign) for sign in (" ", "\n")) + 1
    if not shared[:border].strip():
        raise WrongField("prompt", "there is none, and chosen and rejected begin differently")
    return shared[:border], chosen[border:], rejected[border:]


def _preference(fields: Fields) -> list[Preference]:
    if _is_chat(fields):
        messages, chosen, rejected = _chat(fields)
        return _preferred(messages=messages, chosen=chosen, rejected=rejected, whole=True)
    prompt, chosen, rejected = _plain(fields)
    return _preferred(problem=prompt.strip(), chosen=chosen.strip(), rejected=rejected.strip(), whole=True)


def _preference_problem(fields: Fields) -> list[SearchProblem]:
    """The prompt, or the last message of the user."""
    if has_problem(fields):
        return own_problem(fields)
    if not _is_chat(fields):
        return problem_text("prompt")({"prompt": _plain(fields)[0].strip()})
    asked = [item["content"] for item in _chat(fields)[0] if item["role"] == "user"]
    return problem_text("prompt")({"prompt": asked[-1] if asked else ""})


# --- judgements ----------------------------------------------------------------------------------------------

SLOT = r"\[The Start of Assistant {0}.s [^\]\n]+\]\s*\n(.*?)\n\s*\[The End of Assistant {0}.s [^\]\n]+\]"
QUESTION = re.compile(r"\[[^\]\n]*Question[^\]\n]*\]\s*\n(.*?)\n\s*\[The Start of Assistant A", re.DOTALL)
STEPS = re.compile(r"^Step 1:", re.MULTILINE)


def _is_judgement(fields: Fields) -> bool:
    """Whether a preference is one between two judgements: the better one ends in a verdict."""
    if not {"chosen", "rejected"} <= fields.keys():
        return False
    chosen: Any = fields["chosen"]
    if isinstance(chosen, list):
        chosen = chosen[-1].get("content") if chosen and isinstance(chosen[-1], dict) else None
    return isinstance(chosen, str) and verdict(chosen) is not None


def _own_judgement(fields: Fields) -> list[EFTRecord]:
    chosen = text_of(fields, "chosen")
    if verdict(chosen) is None:
        raise WrongField("chosen", "must hold the verdict [[A]] or [[B]]")
    return [EFTRecord.model_validate({**fields, "judgement": chosen})]


def _asked_judgement(fields: Fields) -> list[EFTRecord]:
    """Problem, steps and both candidates are read out of a judge prompt by the marks around them (paper Figure 5)."""
    if _is_chat(fields):
        messages, chosen, _ = _chat(fields)
        prompt = messages[-1]["content"]
    else:
        prompt, chosen, _ = _plain(fields)
    question = QUESTION.search(prompt)
    a, b = (re.search(SLOT.format(slot), prompt, re.DOTALL) for slot in "AB")
    if question is None or a is None or b is None:
        raise WrongField("prompt", "must be a judge prompt: [… Question …], [The Start of Assistant A's …] and so on")
    asked = question[1].strip()
    begin = STEPS.search(asked)
    steps = steps_of(asked[begin.start() :]) if begin else []
    problem = asked[: begin.start()].strip() if begin else asked
    return [EFTRecord(problem=problem, steps=steps, a=a[1].strip(), b=b[1].strip(), judgement=chosen)]


PAIR = Schema(
    name="PSR pairs",
    marks="`prompt_ids`, `chosen_ids`, `rejected_ids`",
    fits=lambda fields: {"prompt_ids", "chosen_ids", "rejected_ids"} <= fields.keys(),
    example={
        "prompt_ids": [1, 2],
        "path_ids": [],
        "chosen_ids": [3],
        "rejected_ids": [4],
        "tokenizer_digest": "sha256:…",
    },
    cells={
        Purpose.PROBLEMS: NO_PROBLEM,
        Purpose.EVALUATION: NO_ANSWER,
        Purpose.IFT: NO_STEPS,
        Purpose.EFT: NO_JUDGEMENT,
        Purpose.PAIRS: Reads(
            "as it stands, ids of the tokenizer that it names", lambda fields: [Pair.model_validate(fields)]
        ),
    },
)
CHOSEN_JUDGEMENT = Schema(
    name="chosen and rejected judgements",
    marks="`problem` or `question`, `a`, `b`, `chosen`, `rejected`",
    fits=lambda fields: has_problem(fields) and {"a", "b", "chosen", "rejected"} <= fields.keys(),
    example={
        "problem": "How much is 2 + 3?",
        "a": "Step 1: 2 + 3 = 5.",
        "b": "Step 1: 2 + 3 = 6.",
        "chosen": "2 + 3 is 5, so A is right. [[A]]",
        "rejected": "B is longer. [[B]]",
    },
    cells={
        Purpose.PROBLEMS: Reads("the problem", own_problem),
        Purpose.EVALUATION: NO_ANSWER,
        Purpose.IFT: NO_STEPS,
        Purpose.EFT: Reads("`chosen` is the judgement", _own_judgement),
        Purpose.PAIRS: "its preference is one between judgements, not between steps",
    },
)
TRL_JUDGEMENT = Schema(
    name="TRL preferences between judgements",
    marks="`prompt` (a judge prompt), `chosen` with `[[A]]` or `[[B]]`, `rejected`",
    fits=lambda fields: _is_judgement(fields) and not {"a", "b"} <= fields.keys(),
    example={
        "prompt": "[Question Provided]\nHow much is 2 + 3?\n[The Start of Assistant A's Step]\nStep 1: It is 5.\n"
        "[The End of Assistant A's Step]\n[The Start of Assistant B's Step]\nStep 1: It is 6.\n"
        "[The End of Assistant B's Step]",
        "chosen": "2 + 3 is 5. [[A]]",
        "rejected": "B is longer. [[B]]",
    },
    cells={
        Purpose.PROBLEMS: NO_PROBLEM,
        Purpose.EVALUATION: NO_ANSWER,
        Purpose.IFT: NO_STEPS,
        Purpose.EFT: Reads(
            "problem, steps and candidates from the prompt's marks; `chosen` is the judgement", _asked_judgement
        ),
        Purpose.PAIRS: Reads("as other TRL preferences", _preference),
    },
)
STEP_DPO = Schema(
    name="Step-DPO-10K",
    marks="`prompt`, `initial_reason_steps`, `chosen`, `rejected`",
    fits=lambda fields: {"prompt", "initial_reason_steps", "chosen", "rejected"} <= fields.keys(),
    example={
        "prompt": "How much is 2 + 3 + 4?",
        "initial_reason_steps": "Let's think step by step.\nStep 1: 2 + 3 = 5.\nStep 2: ",
        "chosen": "5 + 4 = 9.",
        "rejected": "5 + 4 = 8.",
    },
    cells={
        Purpose.PROBLEMS: Reads("`prompt`", problem_text("prompt")),
        Purpose.EVALUATION: "its answers belong to a training set",
        Purpose.IFT: ONE_WORSE,
        Purpose.EFT: NO_JUDGEMENT,
        Purpose.PAIRS: Reads(
            "`prompt` as the problem, `initial_reason_steps` as the steps before, `chosen` and `rejected` as the next "
            "step",
            _step_dpo,
        ),
    },
    repeats=True,
)
TRL_PREFERENCE = Schema(
    name="TRL preferences (plain and conversational)",
    marks="`chosen`, `rejected`, with or without `prompt`",
    fits=lambda fields: {"chosen", "rejected"} <= fields.keys() and not _is_judgement(fields),
    example={"prompt": "How much is 2 + 3?", "chosen": "It is 5.", "rejected": "It is 6."},
    cells={
        Purpose.PROBLEMS: Reads("the prompt, or the last message of the user", _preference_problem),
        Purpose.EVALUATION: NO_ANSWER,
        Purpose.IFT: ONE_WORSE,
        Purpose.EFT: NO_JUDGEMENT,
        Purpose.PAIRS: Reads(
            "a text `prompt` as the problem, messages as the chat that they are; without it what both begin with; the "
            "answers as they stand",
            _preference,
        ),
    },
    repeats=True,
)
