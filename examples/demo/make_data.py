"""Makes the demo's inputs: a tiny untrained model, records to learn from, problems to search and to be tested on.

Solutions are deliberately careless (they often forget the carry), judgements are always right; README.md says
why. Only the standard library is used, and the same seed gives the same bytes on every machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

IFT_RECORDS = 16_000
EFT_RECORDS = 16_000
SEARCH_PROBLEMS = 1_000
TEST_PROBLEMS = 1_000

SLIP = 0.3
"""How often a careless solution forgets the carry of a sum that has one."""
SLIP_LARGE = 0.7
"""The same where the number added is 8 or 9."""
BOTH_WRONG = 0.3
"""Share of judgements where neither candidate is right; the verdict is [[B]] then, whatever the order."""
WRONG_BEFORE = 0.1
"""Share of judgements, from the second step on, where a step before the candidates is wrong."""

NAMES = ("Ann", "Ben", "Eva", "Ida", "Leo", "Max", "Mia", "Tom")
THINGS = ("apples", "books", "cards", "coins", "dolls", "eggs", "pens", "shells")
VERBS = ("Buys", "Finds", "Gets", "Wins")
ASSISTANT, USER, END, UNKNOWN = "<assistant>", "<user>", "<end>", "<unknown>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}" + USER + "{{ message.content }}"
    "{% elif message.role == 'assistant' %}" + ASSISTANT + "{{ message.content }}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)

Numbers = tuple[int, int, int, int]
"""What one has at first and the three numbers added to it."""


@dataclass(frozen=True)
class Problem:
    """A word problem in three additions. All sums stay below 100.

    Attributes:
        numbers: the start (10 to 99) and three operands (2 to 9).
        text: the problem in words.
    """

    numbers: Numbers
    text: str

    @property
    def answer(self) -> int:
        """The right answer."""
        return sum(self.numbers)

    @property
    def operands(self) -> tuple[int, ...]:
        """The three numbers that are added."""
        return self.numbers[1:]


def make_data(out: Path, seed: int) -> dict[str, Any]:
    """Write every file of the demo below `out`.

    Each file appears whole or not at all; `about.json`, which lists the others, is taken away first and comes
    last, so where it stands all files are there and belong together.

    Args:
        out: folder, made if it is not there. Other files in it are left alone.
        seed: decides every random choice.

    Returns:
        What `about.json` holds: the seed, the declared rates, and size and sha256 of each file.
    """
    out.mkdir(parents=True, exist_ok=True)
    contents = {
        "base/config.json": _json(model_config()),
        "base/generation_config.json": _json(generation_config()),
        "base/tokenizer.json": _json(tokenizer()),
        "base/tokenizer_config.json": _json(tokenizer_config()),
    }
    for name, records in data_sets(seed).items():
        contents[name] = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    about = {
        "seed": seed,
        "rates": {
            "slip": SLIP,
            "slip_large": SLIP_LARGE,
            "both_wrong": BOTH_WRONG,
            "wrong_before": WRONG_BEFORE,
        },
        "files": {
            name: {"bytes": len(text.encode()), "sha256": sha256(text.encode()).hexdigest()}
            for name, text in contents.items()
        },
    }
    (out / "about.json").unlink(missing_ok=True)
    for name, text in contents.items():
        _write(out / name, text)
    _write(out / "about.json", _json(about))
    return about


def data_sets(
    seed: int,
    *,
    ift: int = IFT_RECORDS,
    eft: int = EFT_RECORDS,
    search: int = SEARCH_PROBLEMS,
    test: int = TEST_PROBLEMS,
) -> dict[str, list[dict[str, Any]]]:
    """The records of each file. No four numbers occur twice: not within a file and not in two of them.

    Args:
        seed: decides every random choice.
        ift, eft, search, test: how many records each file gets.
    """
    numbers = all_numbers()
    if ift + eft + search + test > len(numbers):
        raise ValueError(f"asked for {ift + eft + search + test} problems; there are only {len(numbers)}")
    random.Random(f"{seed} numbers").shuffle(numbers)
    words = random.Random(f"{seed} words")
    problems = iter([in_words(item, words) for item in numbers[: ift + eft + search + test]])
    slips = random.Random(f"{seed} slips")
    judged = random.Random(f"{seed} judgements")
    return {
        "test.jsonl": [_problem(f"test-{n:04}", next(problems)) for n in range(test)],
        "problems.jsonl": [_problem(f"search-{n:04}", next(problems)) for n in range(search)],
        "ift.jsonl": [careless_solution(next(problems), slips) for _ in range(ift)],
        "eft.jsonl": [judgement(next(problems), judged) for _ in range(eft)],
    }


# --- problems and steps ------------------------------------------------------------------------------------


def all_numbers() -> list[Numbers]:
    """Every start and three operands whose total stays below 100, in a fixed order."""
    operands = range(2, 10)
    return [
        (start, a, b, c)
        for start, a, b, c in product(range(10, 100), operands, operands, operands)
        if start + a + b + c < 100
    ]


def in_words(numbers: Numbers, rng: random.Random) -> Problem:
    """A problem with these numbers, its words chosen by `rng`."""
    start, *operands = numbers
    happenings = " ".join(f"{verb} {n}." for verb, n in zip(rng.sample(VERBS, 3), operands, strict=True))
    return Problem(numbers, f"{rng.choice(NAMES)} has {start} {rng.choice(THINGS)}. {happenings} How many?")


def step(level: int, total: int, operand: int, result: int) -> str:
    """Step `level` (1 to 3) as it is written; the third states the answer."""
    stated = f"\\boxed{{{result}}}" if level == 3 else str(result)
    return f"Step {level}: {total} + {operand} = {stated}"


def has_carry(total: int, operand: int) -> bool:
    """Whether the ones of the two add up to ten or more."""
    return total % 10 + operand >= 10


# --- what the model learns from ----------------------------------------------------------------------------


def careless_solution(problem: Problem, rng: random.Random) -> dict[str, Any]:
    """An IFT record whose sums forget the carry by the declared rates; it goes on from a wrong sum."""
    total, steps = problem.numbers[0], []
    for level, operand in enumerate(problem.operands, 1):
        result = total + operand
        if has_carry(total, operand) and rng.random() < (SLIP_LARGE if operand >= 8 else SLIP):
            result -= 10
        steps.append(step(level, total, operand, result))
        total = result
    return {"problem": problem.text, "steps": steps}


def judgement(problem: Problem, rng: random.Random) -> dict[str, Any]:
    """An EFT record: two candidates for a random next step, and a judgement that is right."""
    level = rng.randint(1, 3)
    wrong_at = rng.randint(1, level - 1) if level > 1 and rng.random() < WRONG_BEFORE else None
    total, steps = problem.numbers[0], []
    for number, operand in enumerate(problem.operands[: level - 1], 1):
        result = total + operand
        if number == wrong_at:
            result = wrong_sum(result, rng, most=99 - sum(problem.operands[number:]))
        steps.append(step(number, total, operand, result))
        total = result
    operand = problem.operands[level - 1]
    right = total + operand
    wrong = wrong_sum(right, rng)
    other = right
    if rng.random() < BOTH_WRONG:
        other = wrong_sum(right, rng, but=wrong)
    a, b = rng.sample((wrong, other), 2)
    return {
        "problem": problem.text,
        "steps": steps,
        "a": step(level, total, operand, a),
        "b": step(level, total, operand, b),
        "judgement": explain(total, operand, a, b),
    }


def wrong_sum(right: int, rng: random.Random, *, most: int = 99, but: int | None = None) -> int:
    """A two-digit number near `right` that is not `right` (and not `but`): off by ones, tens, both or a digit."""
    while True:
        kind = rng.randrange(7)
        if kind == 6:
            tens, ones = divmod(right, 10)
            result = rng.randint(1, 9) * 10 + ones if rng.random() < 0.5 else tens * 10 + rng.randint(0, 9)
        else:
            result = right + rng.choice((-1, 1)) * (1, 10, 2, 20, 9, 11)[kind]
        if 10 <= result <= most and result not in (right, but):
            return result


def explain(total: int, operand: int, a: int, b: int) -> str:
    """The judgement of results `a` and `b` for a sum: the sum digit by digit, then each candidate's digits.

    In `9 vs 8: no` 9 is the judge's own digit and 8 the candidate's. The two stand close together and a token of
    its own (`: `) asks for the comparison; without it a model of this size sometimes fails to learn comparing. The
    verdict says whether A is right: with two wrong candidates it is [[B]] in both orders and neither gains.
    """
    right = total + operand
    carry = "carry" if has_carry(total, operand) else "no carry"
    text = f"{total % 10} + {operand} -> {right % 10} {carry}; {total // 10} -> {right // 10}; "
    for slot, result in (("A", a), ("B", b)):
        text += f"{slot}: "
        for own, theirs in zip(str(right), str(result), strict=True):
            text += f"{own} vs {theirs}: {'ok' if own == theirs else 'no'}; "
    return f"{text}[[{'A' if a == right else 'B'}]]"


# --- the untrained model -----------------------------------------------------------------------------------


def vocabulary() -> list[str]:
    """Every token: the special ones, digits, then words with the punctuation and blanks that belong to them.

    A candidate ends before `\\nB: ` or `}\\nB: `, one token either way, so that a judge prompt has the same
    length at every level but for the steps before.
    """
    words = [
        *(f"{name} has " for name in NAMES),
        *(f" {thing}. " for thing in THINGS),
        *(f"{verb} " for verb in VERBS),
        *(". ", ". How many?", "\n"),
        *(f"Step {level}: " for level in (1, 2, 3)),
        *(" + ", " = ", " = \\boxed{", "}"),
        *(f"{brace}\n{label}" for label in ("A: ", "B: ", "Check:") for brace in ("", "}")),
        *(" -> ", " carry; ", " no carry; ", "; A: ", "B: ", " vs ", ": ", "ok; ", "no; ", "[[A]]", "[[B]]"),
    ]
    return [UNKNOWN, USER, ASSISTANT, END, *"0123456789", *words]


def tokenizer() -> dict[str, Any]:
    """`tokenizer.json`: text is cut into the longest tokens that fit; ids joined again give the same text."""
    tokens = vocabulary()
    longest_first = sorted(tokens[4:], key=lambda token: (-len(token), token))
    pattern = "|".join(re.sub(r"([\\.+\[\]{}?])", r"\\\1", token) for token in longest_first)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, token in enumerate(tokens[:4])
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "unk_token": UNKNOWN,
        },
    }


def tokenizer_config() -> dict[str, Any]:
    """`tokenizer_config.json`: the class, the special tokens and the chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        "eos_token": END,
        "pad_token": END,
        "additional_special_tokens": [USER, ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "chat_template": CHAT_TEMPLATE,
    }


def model_config() -> dict[str, Any]:
    """`config.json` of a Qwen2 model with about 460,000 parameters.

    Embeddings are not tied to the output: a running server can then be given new weights in place.
    """
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": len(vocabulary()),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.05,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": vocabulary().index(END),
        "pad_token_id": vocabulary().index(END),
    }


def generation_config() -> dict[str, Any]:
    """`generation_config.json`: only which token ends a turn."""
    return {"eos_token_id": vocabulary().index(END), "pad_token_id": vocabulary().index(END)}


# --- files and the command line ----------------------------------------------------------------------------


def _problem(name: str, problem: Problem) -> dict[str, Any]:
    return {"id": name, "problem": problem.text, "answer": str(problem.answer)}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: Iterable[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python examples/demo/make_data.py --out out/demo/data --seed 0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files; made if absent")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides every random choice (default 0)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        about = make_data(options.out, options.seed)
    except OSError as error:
        print(f"make_data: {options.out}: cannot be written ({error.strerror}); give another --out", file=sys.stderr)
        return 1
    for name, file in about["files"].items():
        print(f"{options.out / name}  {file['bytes']:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
