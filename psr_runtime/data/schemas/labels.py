"""Step labels: PRM800K, Math-Shepherd, OmegaPRM, and TRL's stepwise supervision.

A record says of steps whether they are right. Siblings, a right step and a wrong one after the same steps, are a
preference; they may stand in different records. A path of right steps to the end is a solution. Labels are no judgement
in words, so nothing is read for EFT.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psr_runtime.data.records import GradedProblem, IFTRecord, StepLabel
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
from psr_runtime.data.schemas.solutions import problem_text
from psr_runtime.data.texts import numbered, step_text, with_boxed_answer, without_calculator

NO_WORDS = "labels are no judgement in words; read it as pairs"
TAG = "ки"
"""Math-Shepherd's sign after a step (U+043A, U+0438)."""
UNFINISHED = "no path of right steps to an answer"
SIBLINGS = "a right step against a wrong one after the same steps, also of different records"


def _labels(problem: str, steps: Sequence[str], rights: Sequence[bool]) -> list[StepLabel]:
    """The labels of one path: each step after those before it, as long as these are right."""
    texts = numbered(steps)
    labels = []
    for number, right in enumerate(rights):
        labels.append(StepLabel(problem=problem, steps=tuple(texts[:number]), step=texts[number], right=right))
        if not right:
            break
    return labels


def _solution(problem: str, steps: Sequence[str], rights: Sequence[bool]) -> list[IFTRecord]:
    if not steps or not all(rights):
        raise Dropped(UNFINISHED)
    return [IFTRecord(problem=problem, steps=numbered(steps))]


# --- PRM800K -------------------------------------------------------------------------------------------------


def _question(fields: Fields) -> Mapping[str, Any]:
    question: Mapping[str, Any] = fields["question"]
    if not isinstance(question.get("problem"), str) or not question["problem"].strip():
        raise WrongField("question.problem", "must hold text")
    return question


def _levels(fields: Fields) -> Iterator[tuple[str, list[tuple[str, int]], str | None]]:
    """Each level: where it stands, texts and ratings of its completions, and the text with which the path goes on."""
    steps = fields["label"].get("steps")
    if not isinstance(steps, list):
        raise WrongField("label.steps", "must hold a list")
    for number, level in enumerate(steps):
        place = f"label.steps[{number}]"
        if not isinstance(level, Mapping):
            raise WrongField(place, "must hold completions")
        rated = []
        completions = level.get("completions") or []
        for index, item in enumerate(completions):
            if not isinstance(item, Mapping) or not isinstance(item.get("text"), str):
                raise WrongField(f"{place}.completions[{index}]", "must hold text and rating")
            if item.get("rating") not in (-1, 0, 1, None):
                raise WrongField(f"{place}.completions[{index}].rating", "must be -1, 0, 1 or null")
            if item.get("rating") is not None and item["text"].strip():
                rated.append((with_boxed_answer(item["text"]), int(item["rating"])))
        chosen, human = level.get("chosen_completion"), level.get("human_completion")
        if chosen is not None:
            if not isinstance(chosen, int) or not 0 <= chosen < len(completions):
                raise WrongField(f"{place}.chosen_completion", f"there is no completion {chosen}")
            yield place, rated, with_boxed_answer(completions[chosen]["text"])
        elif isinstance(human, Mapping) and str(human.get("text") or "").strip():
            yield place, rated, with_boxed_answer(human["text"])
        else:
            yield place, rated, None


def _prm800k_problem(fields: Fields) -> list[Any]:
    return problem_text("problem")(_question(fields))


def _prm800k_graded(fields: Fields) -> list[GradedProblem]:
    question = _question(fields)
    answer = question.get("ground_truth_answer")
    if answer is None:
        raise Dropped("no ground-truth answer")
    if not isinstance(answer, str):
        raise WrongField("question.ground_truth_answer", "must hold text")
    return [GradedProblem(problem=question["problem"], answer=answer)]


def _prm800k_solution(fields: Fields) -> list[IFTRecord]:
    """The chosen path, where the labeler went along it to the solution and rated none of its steps as wrong."""
    problem = _question(fields)["problem"]
    levels = list(_levels(fields))
    if fields["label"].get("finish_reason") != "solution":
        raise Dropped(UNFINISHED)
    path = [step for _, _, step in levels if step is not None]
    wrong = {text for _, rated, _ in levels for text, rating in rated if rating < 0}
    return _solution(problem, path, [len(path) == len(levels) and step not in wrong for step in path])


def _prm800k_labels(fields: Fields) -> list[StepLabel]:
    """Completions rated +1 and −1 at each level of the path. A 0 is neither right nor wrong."""
    problem = _question(fields)["problem"]
    labels: list[StepLabel] = []
    path: list[str] = []
    for _, rated, step in _levels(fields):
        for text, rating in rated:
            if rating:
                before, own = tuple(numbered(path)), step_text(text, len(path) + 1)
                labels.append(StepLabel(problem=problem, steps=before, step=own, right=rating > 0))
        if step is None:
            break
        path.append(step)
    return labels


# --- Math-Shepherd -------------------------------------------------------------------------------------------


def _shepherd(fields: Fields) -> tuple[str, list[str], list[bool]]:
    """Problem, steps and labels. `label` repeats `input` with + or - in the place of each tag."""
    tagged, label = text_of(fields, "input"), text_of(fields, "label")
    pieces = tagged.split(TAG)
    rights: list[bool] = []
    at = 0
    for piece in pieces[:-1]:
        at += len(piece)
        if label[at - len(piece) : at] != piece or label[at : at + 1] not in ("+", "-"):
            raise WrongField("label", f"must repeat input, with + or - in the place of {TAG} number {len(rights) + 1}")
        rights.append(label[at] == "+")
        at += 1
    start = re.search(r"Step 1:", pieces[0])
    if start is None:
        raise WrongField("input", "must hold the problem and then Step 1:")
    texts = [pieces[0][start.start() :], *pieces[1:-1]]
    steps = [with_boxed_answer(without_calculator(text).strip()) for text in texts]
    return pieces[0][: start.start()].strip(), steps, rights


# --- OmegaPRM ------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """A step of a search tree with its Monte Carlo value: the share of its continuations that end right."""

    text: str
    value: float
    children: list[_Node] = field(default_factory=list)


def _tree(value: Any, place: str) -> _Node:
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
        raise WrongField(place, "must hold text, mc_value and children")
    if not isinstance(value.get("mc_value"), int | float):
        raise WrongField(f"{place}.mc_value", "must be a number")
    children = value.get("children") or []
    nodes = [_tree(child, f"{place}.children[{number}]") for number, child in enumerate(children)]
    return _Node(value["text"], value["mc_value"], nodes)


def _grown(fields: Fields) -> _Node:
    """The tree of records that hold prefixes of solutions, each with the question before it."""
    root = _Node(text_of(fields, "question"), 1.0)
    nodes: dict[str, _Node] = {root.text.strip(): root}
    listed = []
    for number, item in enumerate(fields["reasoning_steps"]):
        place = f"reasoning_steps[{number}]"
        if not isinstance(item, Mapping) or not isinstance(item.get("solution_prefix"), str):
            raise WrongField(place, "must hold solution_prefix and mc_value")
        if not isinstance(item.get("mc_value"), int | float):
            raise WrongField(f"{place}.mc_value", "must be a number")
        prefix = item["solution_prefix"].strip()
        if not prefix.startswith(root.text.strip()):
            raise WrongField(f"{place}.solution_prefix", "must begin with the question")
        listed.append((prefix, item["mc_value"]))
    for prefix, value in sorted(dict(listed).items(), key=lambda item: len(item[0])):
        parent = max((text for text in nodes if prefix.startswith(text)), key=len)
        if prefix != parent:
            nodes[prefix] = _Node(prefix[len(parent) :].strip(), value)
            nodes[parent].children.append(nodes[prefix])
    return root


def _has_values(steps: Any) -> bool:
    """Whether these are the steps of a tree, or a list of prefixes."""
    first = steps[0] if isinstance(steps, list) and steps else steps
    return isinstance(first, Mapping) and "mc_value" in first


def _omega_tree(fields: Fields) -> _Node:
    steps = fields["reasoning_steps"]
    return _grown(fields) if isinstance(steps, list) else _tree(steps, "reasoning_steps")


def _omega_labels(fields: Fields) -> list[StepLabel]:
    """Children of the tree's nodes: right where any of their continuations ended right, wrong where none did."""
    problem = text_of(fields, "question")

    def walk(node: _Node, before: tuple[str, ...]) -> Iterator[StepLabel]:
        for child in sorted(node.children, key=lambda child: -child.value):
            if not child.text.strip():
                continue
            step = step_text(with_boxed_answer(child.text), len(before) + 1)
            yield StepLabel(problem=problem, steps=before, step=step, right=child.value > 0)
            yield from walk(child, (*before, step))

    return list(walk(_omega_tree(fields), ()))


def _omega_solution(fields: Fields) -> list[IFTRecord]:
    """The first path to a leaf all of whose continuations ended right."""

    def path(node: _Node) -> list[str] | None:
        for child in sorted(node.children, key=lambda child: -child.value):
            if child.value <= 0 or not child.text.strip():
                continue
            if not child.children:
                if child.value >= 1:
                    return [with_boxed_answer(child.text)]
            elif (rest := path(child)) is not None:
                return [child.text, *rest]
        return None

    steps = path(_omega_tree(fields)) or []
    return _solution(text_of(fields, "question"), steps, [True] * len(steps))


# --- TRL -----------------------------------------------------------------------------------------------------


def _stepwise(fields: Fields) -> tuple[str, list[str], list[bool]]:
    steps, labels = fields["completions"], fields["labels"]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise WrongField("completions", "must hold a list of steps")
    if not isinstance(labels, list) or len(labels) != len(steps) or any(label not in (0, 1) for label in labels):
        raise WrongField("labels", f"must hold true or false for each of the {len(steps)} completions")
    texts = [with_boxed_answer(without_calculator(step).strip()) for step in steps]
    return text_of(fields, "prompt"), texts, [bool(label) for label in labels]


Path = Callable[[Fields], tuple[str, list[str], list[bool]]]


def _cells(
    problem: Reads, evaluation: Reads | str, solution: Reads, labels: Callable[[Fields], list[StepLabel]], rule: str
) -> Mapping[Purpose, Reads | str]:
    return {
        Purpose.PROBLEMS: problem,
        Purpose.EVALUATION: evaluation,
        Purpose.IFT: solution,
        Purpose.EFT: NO_WORDS,
        Purpose.PAIRS: Reads(f"{SIBLINGS}; {rule}", labels),
    }


def _path_cells(problem: str, path: Path, rule: str) -> Mapping[Purpose, Reads | str]:
    return _cells(
        Reads(
            problem, lambda fields: problem_text("")(fields if has_problem(fields) else {"problem": path(fields)[0]})
        ),
        "the answers in it are a model's",
        Reads("the steps, where all are right", lambda fields: _solution(*path(fields))),
        lambda fields: _labels(*path(fields)),
        rule,
    )


PRM800K = Schema(
    name="PRM800K (phases 1 and 2)",
    marks="`question` with `problem`, `label` with `steps`",
    fits=lambda fields: isinstance(fields.get("question"), Mapping) and isinstance(fields.get("label"), Mapping),
    example={
        "question": {"problem": "How much is 2 + 3?", "ground_truth_answer": "5"},
        "label": {
            "steps": [
                {
                    "completions": [{"text": "2 + 3 = 5.", "rating": 1}, {"text": "2 + 3 = 6.", "rating": -1}],
                    "human_completion": None,
                    "chosen_completion": 0,
                }
            ],
            "finish_reason": "solution",
        },
    },
    cells=_cells(
        Reads("`question.problem`", _prm800k_problem),
        Reads("`question.problem`; `question.ground_truth_answer`", _prm800k_graded),
        Reads("the chosen path, where it ends as a solution and has no step rated −1", _prm800k_solution),
        _prm800k_labels,
        "rated +1 and −1; a 0 is neither",
    ),
    repeats=True,
)
SHEPHERD = Schema(
    name="Math-Shepherd",
    marks=f"`input` with `{TAG}`, `label` with `+` and `-`",
    fits=lambda fields: is_text(fields, "input", "label") and TAG in fields["input"],
    example={
        "input": f"How much is 2 + 3? Step 1: 2 + 3 = 5. The answer is: 5 {TAG}",
        "label": "How much is 2 + 3? Step 1: 2 + 3 = 5. The answer is: 5 +",
    },
    cells=_path_cells("what stands before `Step 1:`", _shepherd, "`+` and `-`"),
    repeats=True,
)
OMEGA = Schema(
    name="OmegaPRM (trees, and records of prefixes)",
    marks="`question`, `reasoning_steps` with `mc_value`",
    fits=lambda fields: is_text(fields, "question") and _has_values(fields.get("reasoning_steps")),
    example={
        "question": "How much is 2 + 3?",
        "final_answer": "5",
        "reasoning_steps": {
            "text": "How much is 2 + 3?",
            "mc_value": 0.5,
            "children": [{"text": "It is \\boxed{5}.", "mc_value": 1.0, "children": []}],
        },
    },
    cells=_cells(
        Reads("`question`", problem_text("question")),
        Reads(
            "`question`; `final_answer`",
            lambda fields: [GradedProblem(problem=fields["question"], answer=text_of(fields, "final_answer"))],
        ),
        Reads("the first path to a leaf with `mc_value` 1", _omega_solution),
        _omega_labels,
        "`mc_value` above 0, and 0",
    ),
    repeats=True,
)
STEPWISE = Schema(
    name="TRL stepwise supervision",
    marks="`prompt`, `completions`, `labels`",
    fits=lambda fields: {"prompt", "completions", "labels"} <= fields.keys(),
    example={
        "prompt": "How much is 2 + 3?",
        "completions": ["2 + 3 = 5.", "The answer is 6."],
        "labels": [True, False],
    },
    cells=_path_cells("`prompt`", _stepwise, "`true` and `false`"),
    repeats=True,
)
