"""Completions as candidates: cut where the next step begins, faults named, nothing appended."""

from __future__ import annotations

from typing import Literal

from psr_runtime.data.records import Candidate
from psr_runtime.engine import Completion
from psr_runtime.prompts.grammar import cut_at_next_step, header, is_final
from psr_runtime.prompts.tokens import Tokenizer


def read_candidate(completion: Completion, tokenizer: Tokenizer, level: int, *, context_full: bool) -> Candidate:
    """A completion as a candidate for step `level`.

    Args:
        completion: ids as sampled, a stop token among them, those of a stop string too.
        level: number of the step, from 1.
        context_full: whether the completion's limit was what the context had left.
    """
    ids = completion.token_ids
    ended: Literal["stop", "eos", "length"] = "length" if completion.finish_reason == "length" else "stop"
    fault: Literal["Malformed", "Truncated", "ContextFull"] | None = None
    if ids and ids[-1] in tokenizer.eos_ids:
        ended = "eos"
    elif ended == "length":
        fault = "ContextFull" if context_full else "Truncated"
    else:
        cut = cut_at_next_step(ids, tokenizer.decode, level)
        if cut is None:
            fault = "Malformed"
        else:
            ids = ids[:cut]
    text = tokenizer.decode(ids).rstrip()
    if fault is None and not _is_step(text, level):
        fault = "Malformed"
    final = fault is None and (ended == "eos" or is_final(text))
    return Candidate(ids=list(ids), text=text, ended=ended, final=final, fault=fault)


def _is_step(text: str, level: int) -> bool:
    """Whether a text is step `level` and nothing else: its header, something after it, and no later step."""
    start = header(level)
    return text.startswith(start) and len(text) > len(start) and "\n" + header(level + 1) not in text
