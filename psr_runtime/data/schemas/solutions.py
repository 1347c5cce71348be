"""Problems and their solutions: PSR's own records, GSM8K, MATH, NuminaMath."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from psr_runtime.data.records import EFTRecord, GradedProblem, IFTRecord, SearchProblem
from psr_runtime.data.schemas.base import Fields, Purpose, Reads, Schema, WrongField, has_problem, is_text, text_of
from psr_runtime.data.texts import final_answer, numbered, steps_of, without_calculator
from psr_runtime.prompts.grammar import boxed

NO_STEPS = "it holds no solution in steps"
NO_JUDGEMENT = "it holds no judgement of two steps"
NO_PREFERENCE = "it holds no preference"


def own_problem(fields: Fields) -> list[SearchProblem]:
    """`problem` or `question` of a record, with its `id`."""
    return [SearchProblem.model_validate(fields)]


def graded(fields: Fields) -> list[GradedProblem]:
    """Problem and answer as they stand, with the `id`."""
    return [GradedProblem.model_validate(fields)]


def problem_text(name: str) -> Callable[[Fields], list[SearchProblem]]:
    """Reads `problem` or `question` where there is one, else another field as the problem."""

    def read(fields: Fields) -> list[SearchProblem]:
        return own_problem(fields) if has_problem(fields) else [SearchProblem(problem=text_of(fields, name))]

    return read


def _boxed_answer(fields: Fields) -> list[GradedProblem]:
    """The gold answer: `answer` where there is one, else the last box of the solution."""
    if "answer" in fields or "final_answer" in fields:
        return graded(fields)
    answer = boxed(text_of(fields, "solution"))
    if answer is None:
        raise WrongField("solution", "holds no \\boxed{…}, and there is no answer")
    return graded({**fields, "answer": answer})


def _solution_steps(fields: Fields) -> list[IFTRecord]:
    return [IFTRecord(problem=text_of(fields, "problem"), steps=steps_of(text_of(fields, "solution")))]


def _gsm8k_steps(fields: Fields) -> list[IFTRecord]:
    """The lines of a solution as steps, without calculator marks; the last one states the answer in a box."""
    solution, _, answer = without_calculator(text_of(fields, "answer")).rpartition("####")
    lines: Sequence[str] = [line.strip() for line in solution.splitlines() if line.strip()]
    if not answer.strip():
        raise WrongField("answer", "nothing follows ####")
    steps = [*lines[:-1], " ".join([*lines[-1:], final_answer(answer)])]
    return [IFTRecord(problem=text_of(fields, "question"), steps=numbered(steps))]


def _is_gsm8k(fields: Fields) -> bool:
    return is_text(fields, "question", "answer") and "####" in fields["answer"]


JUDGEMENT = Schema(
    name="PSR judgements",
    marks="`problem` or `question`, `a`, `b`, `judgement`",
    fits=lambda fields: has_problem(fields) and {"a", "b", "judgement"} <= fields.keys(),
    example={
        "problem": "How much is 2 + 3?",
        "steps": [],
        "a": "Step 1: 2 + 3 = 5.",
        "b": "Step 1: 2 + 3 = 6.",
        "judgement": "2 + 3 is 5, so A is right. [[A]]",
    },
    cells={
        Purpose.PROBLEMS: Reads("the problem", own_problem),
        Purpose.EVALUATION: "it holds no answer",
        Purpose.IFT: NO_STEPS,
        Purpose.EFT: Reads("as it stands", lambda fields: [EFTRecord.model_validate(fields)]),
        Purpose.PAIRS: NO_PREFERENCE,
    },
)
SOLUTION_IN_STEPS = Schema(
    name="PSR solutions",
    marks="`problem` or `question`, `steps`",
    fits=lambda fields: has_problem(fields) and "steps" in fields,
    example={"problem": "How much is 2 + 3?", "steps": ["Step 1: 2 + 3 = \\boxed{5}."]},
    cells={
        Purpose.PROBLEMS: Reads("the problem", own_problem),
        Purpose.EVALUATION: "it holds no answer",
        Purpose.IFT: Reads("as it stands", lambda fields: [IFTRecord.model_validate(fields)]),
        Purpose.EFT: NO_JUDGEMENT,
        Purpose.PAIRS: NO_PREFERENCE,
    },
)
GSM8K = Schema(
    name="GSM8K",
    marks="`question`, `answer` with `####`",
    fits=_is_gsm8k,
    example={"question": "How much is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5.\n#### 5"},
    cells={
        Purpose.PROBLEMS: Reads("`question`", own_problem),
        Purpose.EVALUATION: Reads("`question`; what follows `####`", graded),
        Purpose.IFT: Reads(
            "each line of `answer` is a step, without `<<…>>`; what follows `####` ends the last one, in a box",
            _gsm8k_steps,
        ),
        Purpose.EFT: NO_JUDGEMENT,
        Purpose.PAIRS: NO_PREFERENCE,
    },
)


def _with_solution(name: str, marks: str, fits: Callable[[Fields], bool], example: Fields) -> Schema:
    return Schema(
        name=name,
        marks=marks,
        fits=fits,
        example=example,
        cells={
            Purpose.PROBLEMS: Reads("`problem`", own_problem),
            Purpose.EVALUATION: Reads("`problem`; `answer`, else the last `\\boxed{…}` of `solution`", _boxed_answer),
            Purpose.IFT: Reads("`solution`, cut at its `Step n:` headers, else at empty lines", _solution_steps),
            Purpose.EFT: NO_JUDGEMENT,
            Purpose.PAIRS: NO_PREFERENCE,
        },
    )


NUMINA = _with_solution(
    "NuminaMath",
    "`problem`, `solution`, `messages`",
    lambda fields: is_text(fields, "problem", "solution") and "messages" in fields,
    {
        "problem": "How much is 2 + 3?",
        "solution": "2 + 3 is \\boxed{5}.",
        "messages": [
            {"role": "user", "content": "How much is 2 + 3?"},
            {"role": "assistant", "content": "2 + 3 is \\boxed{5}."},
        ],
    },
)
MATH = _with_solution(
    "MATH",
    "`problem`, `solution` with `\\boxed{…}`",
    lambda fields: is_text(fields, "problem", "solution"),
    {"problem": "How much is 2 + 3?", "solution": "The sum is $\\boxed{5}$."},
)
PROBLEM = Schema(
    name="PSR problems",
    marks="`problem` or `question`, `answer` or `final_answer`",
    fits=has_problem,
    example={"id": "sum-1", "problem": "How much is 2 + 3?", "answer": "5"},
    cells={
        Purpose.PROBLEMS: Reads("the problem", own_problem),
        Purpose.EVALUATION: Reads("problem and answer; what follows `####` where that stands in it", graded),
        Purpose.IFT: NO_STEPS,
        Purpose.EFT: NO_JUDGEMENT,
        Purpose.PAIRS: NO_PREFERENCE,
    },
)
