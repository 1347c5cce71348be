"""How long the texts of records are, in characters and in tokens of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from psr_runtime.data.records import EFTRecord, GradedProblem, IFTRecord, Pair, Preference, SearchProblem
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer

SHARES = (0, 50, 90, 99, 100)
"""Percentiles that are shown; 0 is the shortest and 100 the longest."""
Messages = Sequence[dict[str, str]]


def texts_of(record: BaseModel) -> dict[str, str]:
    """The texts of a record that people look at."""
    match record:
        case GradedProblem():
            return {"problem": record.problem, "answer": record.answer}
        case SearchProblem():
            return {"problem": record.problem}
        case IFTRecord():
            return {"problem": record.problem, "solution": "\n".join(record.steps)}
        case EFTRecord():
            asked = "\n".join([record.problem, *record.steps, record.a, record.b])
            return {"problem, steps and candidates": asked, "judgement": record.judgement}
        case Preference():
            asked = record.problem or "\n".join(message["content"] for message in record.messages or [])
            before = "\n".join([asked, *record.steps])
            return {"prompt": before, "chosen": record.chosen, "rejected": record.rejected}
        case Pair():
            return {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}
    raise TypeError(f"no texts of {type(record).__name__} are known")


def tokens_of(record: BaseModel, tokenizer: Tokenizer, templates: Templates) -> dict[str, int]:
    """Tokens of each text as a stage tokenises it: a prompt is rendered under the chat template."""
    match record:
        case Pair():
            prompt = len(record.prompt_ids) + sum(map(len, record.path_ids))
            return {"prompt": prompt, "chosen": len(record.chosen_ids), "rejected": len(record.rejected_ids)}
        case EFTRecord():
            asked: Messages = templates.judge_messages(record.problem, record.steps, record.a, record.b)
        case SearchProblem() | GradedProblem() | IFTRecord():
            asked = templates.solve_messages(record.problem)
        case _:
            raise TypeError(f"no tokens of {type(record).__name__} are known")
    first, *others = texts_of(record).items()
    tokens = {first[0]: len(tokenizer.prompt_ids(asked))}
    return tokens | {name: len(tokenizer.texts_ids([text])[0]) for name, text in others}


def percentiles(lengths: Sequence[int]) -> dict[str, int]:
    """The lengths at `SHARES`, by nearest rank."""
    ordered = sorted(lengths)
    return {f"{share} %": ordered[max(0, -(-share * len(ordered) // 100) - 1)] for share in SHARES}


def table(lengths: Mapping[str, Sequence[int]]) -> dict[str, dict[str, int]]:
    """Percentiles of each text's lengths."""
    return {name: percentiles(values) for name, values in lengths.items()}
