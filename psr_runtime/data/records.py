"""What the records of each data set hold, once they were read at the door (`reading.py`)."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)


class Record(BaseModel):
    """Base of the records that PSR writes itself: closed and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_line(self) -> str:
        """One JSON line, keys in declared order, without unset optionals."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n"


class UserRecord(BaseModel):
    """Base of the records that users bring: fields that PSR does not know are dropped."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)


class SearchProblem(UserRecord):
    """A problem as the search sees it. It has no field for an answer, so none can be read after M1."""

    id: str = ""
    problem: str = Field(min_length=1, validation_alias=AliasChoices("problem", "question"))


class GradedProblem(UserRecord):
    """A problem with its gold answer, for evaluation. GSM8K's `… #### n` is read as `n`."""

    id: str = ""
    problem: str = Field(min_length=1, validation_alias=AliasChoices("problem", "question"))
    answer: str = Field(validation_alias=AliasChoices("answer", "final_answer"))

    @field_validator("answer", mode="before")
    @classmethod
    def _one_answer(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str) and "####" in value:
            value = value.rsplit("####", 1)[1].strip()
        return value


class IFTRecord(UserRecord):
    """A solution in steps, to learn solving from. Paper §3.2: `steps` hold their `Step n: ` headers."""

    problem: str = Field(min_length=1, validation_alias=AliasChoices("problem", "question"))
    steps: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _headers(self) -> IFTRecord:
        for number, step in enumerate(self.steps, 1):
            if not step.startswith(f"Step {number}:"):
                raise ValueError(f"steps[{number - 1}] must start with 'Step {number}:'")
        return self


class EFTRecord(UserRecord):
    """A judgement of two candidate steps, to learn judging from. Paper §4."""

    problem: str = Field(min_length=1, validation_alias=AliasChoices("problem", "question"))
    steps: list[str] = Field(default=[], description="the steps before the two candidates")
    a: str = Field(min_length=1)
    b: str = Field(min_length=1)
    judgement: str = Field(min_length=1, description="explanation that ends with [[A]] or [[B]]")

    @field_validator("judgement")
    @classmethod
    def _has_verdict(cls, value: str) -> str:
        if "[[A]]" not in value and "[[B]]" not in value:
            raise ValueError("must hold the verdict [[A]] or [[B]]")
        return value


class Preference(UserRecord):
    """A preference that is text, as people bring it. The model's tokenizer makes a `Pair` of it (`tokenised.py`).

    Attributes:
        problem: what the solver prompt asks; empty where `messages` are the prompt.
        messages: a chat to be rendered as it is, `role` and `content` each.
        steps: the steps before, each with its `Step n: ` header.
        chosen, rejected: the better and the worse continuation. After a problem each is one step with its header;
            of a preference between whole answers they are the answers.
        whole: whether they are whole answers.
    """

    problem: str = ""
    messages: list[dict[str, str]] | None = None
    steps: list[str] = []
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    whole: bool = False


class StepLabel(UserRecord):
    """Whether a step is right, as step labels say it. Two siblings of which one is right make a `Preference`.

    Attributes:
        steps: the steps before, each with its `Step n: ` header.
        step: the step, with its header.
    """

    problem: str = Field(min_length=1)
    steps: tuple[str, ...] = ()
    step: str = Field(min_length=1)
    right: bool


Ended = Literal["stop", "eos", "length"]


class Candidate(Record):
    """One sampled next step.

    Attributes:
        ids: token ids as sampled and cut at the step's end; EOS is in them iff it was sampled.
        text: the step without special tokens, right-stripped.
        ended: `stop` at the next header, `eos`, or `length`.
        fault: why it cannot be used, or None.
        final: whether it ends the solution.
    """

    ids: list[int]
    text: str
    ended: Ended
    final: bool
    fault: Literal["Malformed", "Truncated", "ContextFull"] | None = None


class Verdict(Record):
    """One judge call: candidate `a` in slot A against `b` in slot B (indices into the distinct candidates).

    Attributes:
        choice: `A`, `B`, or None where the text has no verdict.
        text: the judgement.
    """

    a: int
    b: int
    choice: Literal["A", "B"] | None = None
    text: str


Score = int | float
"""Score_l,i of a candidate, paper eq. 2. Whole numbers stay whole in a file: wins are counted."""


class Level(Record):
    """One sampled level of a problem's search, finished: what was sampled, judged and decided.

    Attributes:
        number: position in the problem's log, from 0.
        level: step number l, from 1.
        attempt: how often this level was sampled before in this problem.
        path_digest: digest of the path that the candidates continue.
        candidates: in shuffled order.
        distinct: for each candidate the index of its text among the distinct usable ones, None where it has a fault.
        scores: of each candidate, by its judge; None where it has a fault.
        decision: what was done.
        best, worst: indices into `candidates`.
    """

    problem_id: str
    number: int
    level: int
    attempt: int
    path_digest: str
    candidates: list[Candidate]
    distinct: list[int | None]
    verdicts: list[Verdict]
    scores: list[Score | None]
    decision: Literal["Keep", "Accept", "RollBack", "End"]
    reason: str
    best: int | None = None
    worst: int | None = None
    candidate_tokens: int = 0
    judge_tokens: int = 0


class Tree(Record):
    """A problem's finished search: its levels and how it ended.

    Attributes:
        kept: for each step of the surviving path, the number of its level in `levels`.
        outcome: `Solved`, `RollbackLimit`, `IterationLimit`, `ContextFull`.
    """

    problem_id: str
    problem: str
    levels: list[Level]
    kept: list[int]
    outcome: Literal["Solved", "RollbackLimit", "IterationLimit", "ContextFull"]


PAIRS = "pairs.jsonl"
"""File of a pair set that holds `Pair` records."""


class Pair(Record):
    """A step preference pair of the surviving path. Paper §3.3, §3.4.

    Attributes:
        prompt_ids: the solver prompt.
        path_ids: ids of each kept step before this one.
        chosen_ids, rejected_ids: header and trailing newline included, EOS iff sampled.
        scores: the scores of all candidates of the level, usable ones only.
        multiplicity: how many candidates had the chosen and the rejected text.
        no_verdict: judge calls of the level without a verdict.
    """

    problem_id: str
    iteration: int
    level: int
    attempt: int
    prompt_ids: list[int]
    path_ids: list[list[int]]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_ended: Ended
    rejected_ended: Ended
    scores: list[Score]
    multiplicity: list[int]
    no_verdict: int
    model_digest: str
    tokenizer_digest: str
    template_digest: str
    prompt: str
    chosen: str
    rejected: str


class Prediction(Record):
    """One answer of an evaluation."""

    id: str
    problem: str
    gold: str
    response: str
    answer: str | None = None
    correct: bool
    tokens: int
    steps: int
    ended: Ended
