"""Every form in which people have data: what each purpose reads in it, and what a wrong record is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from psr_runtime.data.reading import open_door, read_records
from psr_runtime.data.records import EFTRecord, GradedProblem, Preference
from psr_runtime.data.schemas import SCHEMAS, Purpose, Reads, Schema, accepted, example_line
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage, file_uri

DATA = Path(__file__).parents[3] / "shared" / "data"
"""Copies of public data sets, where they lie beside the project."""
STORAGE = Storage()
Fields = dict[str, Any]


def door(folder: Path, purpose: Purpose, *records: Fields) -> Any:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return open_door(STORAGE, file_uri(path), purpose)


def read(folder: Path, purpose: Purpose, *records: Fields) -> list[Any]:
    return list(door(folder, purpose, *records).records())


# --- what is read as what: one case a cell of the table -------------------------------------------------------

GSM8K = {
    "question": "48 and half?",
    "answer": "Half is 48/2 = <<48/2=24>>24.\n\n48+24 = <<48+24=72>>72 in all.\n#### 72",
}
MATH = {"problem": "x?", "level": "1", "solution": "First:\n\n\\[x\n\n=1\\]\n\nSo $\\boxed{\\frac{1}{2}}$."}
NUMINA = {"source": "cn", "problem": "x?", "solution": "Step 1: a\nStep 2: \\boxed{3}", "messages": []}
PHASE_1 = {
    "question": {"problem": "x?", "ground_truth_answer": "29"},
    "label": {
        "steps": [
            {"completions": [{"text": "a", "rating": 1}], "human_completion": None, "chosen_completion": 0},
            {
                "completions": [{"text": "b-", "rating": -1}, {"text": "b0", "rating": 0}],
                "human_completion": {"text": "b", "rating": None},
                "chosen_completion": None,
            },
            {
                "completions": [{"text": "c-", "rating": -1}, {"text": "c\n\n# Answer\n\n29", "rating": 1}],
                "human_completion": None,
                "chosen_completion": 1,
            },
        ],
        "finish_reason": "solution",
    },
}
PHASE_2 = {
    "question": {
        "problem": "y?",
        "ground_truth_answer": None,
        "ground_truth_solution": "s",
        "pre_generated_steps": ["a"],
    },
    "label": {
        "steps": [
            {"completions": [{"text": "a", "rating": 1, "flagged": False}], "chosen_completion": 0},
            {"completions": [{"text": "n", "rating": -1}, {"text": "p", "rating": 1}], "chosen_completion": None},
        ],
        "finish_reason": "found_error",
    },
}
SHEPHERD = {
    "input": "x? Step 1: 1+1 = <<1+1=2>>2. ки\nStep 2: So it is 2. The answer is: 2 ки",
    "label": "x? Step 1: 1+1 = <<1+1=2>>2. +\nStep 2: So it is 2. The answer is: 2 +",
    "task": "GSM8K",
}
SHEPHERD_WRONG = {"input": "x? Step 1: It is 3. ки", "label": "x? Step 1: It is 3. -", "task": "GSM8K"}
TREE = {
    "question": "x?",
    "final_answer": "2",
    "reasoning_steps": {
        "text": "x?",
        "mc_value": 0.5,
        "children": [
            {"text": "wrong", "mc_value": 0.0, "children": []},
            {"text": "half", "mc_value": 0.5, "children": [{"text": "\\boxed{2}", "mc_value": 1.0, "children": []}]},
        ],
    },
}
FLAT = {
    "question": "x?",
    "final_answer": "2",
    "reasoning_steps": [
        {"solution_prefix": "x?\n\nhalf\n\n\\boxed{2}", "mc_value": 1.0},
        {"solution_prefix": "x?", "mc_value": 0.5},
        {"solution_prefix": "x?\n\nhalf", "mc_value": 0.5},
        {"solution_prefix": "x?\n\nwrong", "mc_value": 0.0},
    ],
}
STEP_DPO = {
    "dataset": "g",
    "prompt": "x?",
    "initial_reason_steps": "Let's think step by step.\nStep 1: a\nStep 2: b\nStep 3: ",
    "chosen": "c \\boxed{1}",
    "rejected": "d",
    "full_chosen": "…",
    "answer": "1",
}
STEP_DPO_FIRST = {**STEP_DPO, "prompt": "y?", "initial_reason_steps": "Let's think step by step.\nStep 1: "}
STEPWISE = {"prompt": "x?", "completions": ["a", "b"], "labels": [True, False]}
STEPWISE_RIGHT = {"prompt": "x?", "completions": ["a", "the answer is 4"], "labels": [True, True]}
USER, RIGHT, WRONG = ({"role": r, "content": c} for r, c in (("user", "x?"), ("assistant", "2"), ("assistant", "3")))
PLAIN = {"prompt": "x?", "chosen": " 2", "rejected": " 3"}
PLAIN_IMPLICIT = {"chosen": "The sum is 25", "rejected": "The sum is 24"}
CHAT = {"prompt": [USER], "chosen": [RIGHT], "rejected": [WRONG]}
CHAT_IMPLICIT = {"chosen": [USER, RIGHT], "rejected": [USER, WRONG]}
CHAT_TEXT_PROMPT = {"prompt": "x?", "chosen": [USER, RIGHT], "rejected": [USER, WRONG], "score_chosen": 9.0}
JUDGED = {"question": "x?", "a": "Step 1: 2", "b": "Step 1: 3", "chosen": "A. [[A]]", "rejected": "B. [[B]]"}
JUDGE_PROMPT = (
    "Please act as a judge.\n[Question and Intermediate Reasoning Steps Provided]\nx?\nStep 1: a\n"
    "[The Start of Assistant A’s Next Reasoning Step]\nStep 2: b\n[The End of Assistant A’s Next Reasoning Step]\n"
    "[The Start of Assistant B’s Next Reasoning Step]\nStep 2: c\n[The End of Assistant B’s Next Reasoning Step]"
)
TRL_JUDGED = {"prompt": JUDGE_PROMPT, "chosen": "A. [[A]]", "rejected": "B. [[B]]"}
TRL_JUDGED_CHAT = {
    "prompt": [{"role": "user", "content": JUDGE_PROMPT}],
    "chosen": [{"role": "assistant", "content": "A. [[A]]"}],
    "rejected": [{"role": "assistant", "content": "B. [[B]]"}],
}


def preference(chosen: str, rejected: str, problem: str = "x?", *steps: str) -> Preference:
    return Preference(problem=problem, steps=list(steps), chosen=chosen, rejected=rejected)


PROBLEMS = [
    ([GSM8K], ["48 and half?"]),
    ([MATH, NUMINA], ["x?", "x?"]),
    ([PHASE_1, PHASE_2, PHASE_1], ["x?", "y?"]),
    ([SHEPHERD, SHEPHERD_WRONG], ["x?"]),
    ([TREE], ["x?"]),
    ([FLAT], ["x?"]),
    ([STEP_DPO, STEP_DPO_FIRST], ["x?", "y?"]),
    ([STEPWISE], ["x?"]),
    ([PLAIN], ["x?"]),
    ([CHAT, CHAT_IMPLICIT], ["x?"]),
    ([JUDGED], ["x?"]),
]


@pytest.mark.parametrize(("records", "texts"), PROBLEMS)
def test_problems(records: list[Fields], texts: list[str], tmp_path: Path) -> None:
    found = read(tmp_path, Purpose.PROBLEMS, *records)
    assert [record.problem for record in found] == texts
    assert {name for record in found for name in record.model_dump()} == {"id", "problem"}, "no answer comes in"


ANSWERS = [
    (GSM8K, "72"),
    (MATH, "\\frac{1}{2}"),
    (NUMINA, "3"),
    ({**NUMINA, "answer": "4"}, "4"),
    (PHASE_1, "29"),
    (TREE, "2"),
    (FLAT, "2"),
    ({"question": "x?", "final_answer": ["2"], "solution": ["…"]}, "2"),
    ({"problem": "x?", "answer": 27.0}, "27.0"),
    ({"problem": "x?", "steps": ["Step 1: 2"], "answer": "2"}, "2"),
]


@pytest.mark.parametrize(("record", "answer"), ANSWERS)
def test_gold_answers(record: Fields, answer: str, tmp_path: Path) -> None:
    assert [item.answer for item in read(tmp_path, Purpose.EVALUATION, record)] == [answer]


SOLUTIONS = [
    (GSM8K, ["Step 1: Half is 48/2 = 24.", "Step 2: 48+24 = 72 in all. The final answer is \\boxed{72}."]),
    (MATH, ["Step 1: First:\n\\[x\n=1\\]", "Step 2: So $\\boxed{\\frac{1}{2}}$."]),
    (NUMINA, ["Step 1: a", "Step 2: \\boxed{3}"]),
    (PHASE_1, ["Step 1: a", "Step 2: b", "Step 3: c The final answer is \\boxed{29}."]),
    (SHEPHERD, ["Step 1: 1+1 = 2.", "Step 2: So it is 2. The answer is: \\boxed{2}."]),
    (TREE, ["Step 1: half", "Step 2: \\boxed{2}"]),
    (FLAT, ["Step 1: half", "Step 2: \\boxed{2}"]),
    (STEPWISE_RIGHT, ["Step 1: a", "Step 2: the answer is \\boxed{4}."]),
]


@pytest.mark.parametrize(("record", "steps"), SOLUTIONS)
def test_solutions_in_steps(record: Fields, steps: list[str], tmp_path: Path) -> None:
    assert [item.steps for item in read(tmp_path, Purpose.IFT, record)] == [steps]


JUDGEMENTS = [
    (JUDGED, EFTRecord(problem="x?", a="Step 1: 2", b="Step 1: 3", judgement="A. [[A]]")),
    *(
        (item, EFTRecord(problem="x?", steps=["Step 1: a"], a="Step 2: b", b="Step 2: c", judgement="A. [[A]]"))
        for item in (TRL_JUDGED, TRL_JUDGED_CHAT)
    ),
]


@pytest.mark.parametrize(("record", "judgement"), JUDGEMENTS)
def test_judgements(record: Fields, judgement: EFTRecord, tmp_path: Path) -> None:
    assert read(tmp_path, Purpose.EFT, record) == [judgement]


LAST = "Step 3: c The final answer is \\boxed{29}."
PREFERENCES = [
    ([PHASE_1], [preference(LAST, "Step 3: c-", "x?", "Step 1: a", "Step 2: b")]),
    ([PHASE_2], [preference("Step 2: p", "Step 2: n", "y?", "Step 1: a")]),
    ([SHEPHERD_WRONG, SHEPHERD], [preference("Step 1: 1+1 = 2.", "Step 1: It is 3.")]),
    ([TREE], [preference("Step 1: half", "Step 1: wrong")]),
    ([FLAT], [preference("Step 1: half", "Step 1: wrong")]),
    ([STEP_DPO], [preference("Step 3: c \\boxed{1}", "Step 3: d", "x?", "Step 1: a", "Step 2: b")]),
    ([STEP_DPO_FIRST], [preference("Step 1: c \\boxed{1}", "Step 1: d", "y?")]),
    ([STEPWISE, STEPWISE_RIGHT], [preference("Step 2: the answer is \\boxed{4}.", "Step 2: b", "x?", "Step 1: a")]),
    ([PLAIN], [Preference(problem="x?", chosen="2", rejected="3", whole=True)]),
    ([{**PLAIN_IMPLICIT, "problem": "x?"}], [Preference(problem="x?", **PLAIN_IMPLICIT, whole=True)]),
    ([PLAIN_IMPLICIT], [Preference(problem="The sum is", chosen="25", rejected="24", whole=True)]),
    *(([item], [Preference(messages=[USER], chosen="2", rejected="3", whole=True)]) for item in (CHAT, CHAT_IMPLICIT)),
    ([CHAT_TEXT_PROMPT], [Preference(messages=[USER], chosen="2", rejected="3", whole=True)]),
]


@pytest.mark.parametrize(("records", "preferences"), PREFERENCES)
def test_preferences(records: list[Fields], preferences: list[Preference], tmp_path: Path) -> None:
    assert read(tmp_path, Purpose.PAIRS, *records) == preferences


def test_what_holds_nothing_is_counted_and_said(tmp_path: Path) -> None:
    opened = door(tmp_path, Purpose.IFT, SHEPHERD, SHEPHERD_WRONG, PHASE_2)
    assert len(list(opened.records())) == 1
    assert (opened.rows, dict(opened.dropped)) == (3, {"no path of right steps to an answer": 2})
    assert "not read as ift: no path of right steps to an answer (2)" in opened.said()[0]
    same = {**PLAIN, "rejected": "2"}
    with pytest.raises(
        DataError, match=r"nothing in it is read as pairs \(chosen and rejected are the same text \(1\)\)"
    ):
        read(tmp_path, Purpose.PAIRS, same)


# --- the table and its errors ---------------------------------------------------------------------------------

CELLS = [(schema, purpose) for schema in SCHEMAS for purpose in Purpose]


@pytest.mark.parametrize(("schema", "purpose"), CELLS, ids=lambda value: getattr(value, "name", str(value)))
def test_the_example_of_a_form_is_read_by_every_purpose_that_says_so(
    schema: Schema, purpose: Purpose, tmp_path: Path
) -> None:
    """And refused by those that say why; a purpose may find another form in the same fields."""
    record = dict(schema.example)
    if schema.name == "PSR pairs":
        assert schema.fits(record)
        return
    if isinstance(schema.cells[purpose], Reads):
        extra = [STEPWISE, STEPWISE_RIGHT] if purpose in (Purpose.IFT, Purpose.PAIRS) else []
        opened = door(tmp_path, purpose, record, *extra)
        assert list(opened.records())
        assert opened.forms[schema.name] + sum(opened.dropped.values())
    else:
        with pytest.raises(DataError, match="line 1: ") as refused:
            read(tmp_path, purpose, record)
        assert example_line(accepted(purpose)[0]) in str(refused.value)


WRONG_RECORDS: list[tuple[Purpose, Fields, str]] = [
    (Purpose.EVALUATION, {"problem": "x?"}, "answer: Field required"),
    (Purpose.EVALUATION, {**MATH, "solution": "none"}, r"solution: holds no \\boxed"),
    (Purpose.EVALUATION, {"text": "x"}, "problem: Field required .the record has no form that is known"),
    (Purpose.IFT, {"problem": "x?", "steps": ["a"]}, r"the line: Value error, steps\[0\] must start with 'Step 1:'"),
    (Purpose.IFT, {**GSM8K, "answer": "24\n#### "}, "answer: nothing follows ####"),
    (
        Purpose.IFT,
        {"problem": "x?", "answer": "2"},
        r"steps: Field required \(this is PSR problems: it holds no solution",
    ),
    (Purpose.EFT, {**JUDGED, "chosen": "A"}, r"chosen: must hold the verdict \[\[A\]\] or"),
    (Purpose.EFT, {**TRL_JUDGED, "prompt": "x?"}, "prompt: must be a judge prompt"),
    (Purpose.EFT, STEPWISE, ".*labels are no judgement in words; read it as pairs"),
    (Purpose.PAIRS, {**SHEPHERD, "label": "x?"}, "label: must repeat input, with . or - in the place of ки number 1"),
    (Purpose.PAIRS, {**STEPWISE, "labels": [True]}, "labels: must hold true or false for each of the 2 completions"),
    (Purpose.PAIRS, {**CHAT, "chosen": [USER]}, "chosen: must end in one message of the assistant"),
    (
        Purpose.PAIRS,
        {**CHAT, "chosen": [{"role": "assistant"}]},
        r"chosen\[0\]: must be a message with role and content",
    ),
    (
        Purpose.PAIRS,
        {"chosen": "a b", "rejected": "c d"},
        "prompt: there is none, and chosen and rejected begin different",
    ),
    (Purpose.PAIRS, {**STEP_DPO, "rejected": None}, "rejected: must hold text"),
    (Purpose.PAIRS, {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": ["x"]}, "problem_id: Field required"),
    (Purpose.PAIRS, MATH, r"the record holds no preference \(this is MATH: it holds no preference\)"),
]


@pytest.mark.parametrize(("purpose", "record", "message"), WRONG_RECORDS)
def test_a_wrong_record_is_named_and_a_right_one_shown(
    purpose: Purpose, record: Fields, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"data\.jsonl, line 1: {message}") as refused:
        read(tmp_path, purpose, record)
    assert "a right record" in str(refused.value)


def test_nested_faults_name_the_whole_path(tmp_path: Path) -> None:
    label = json.loads(json.dumps(PHASE_1["label"]))
    label["steps"][2]["completions"][0]["rating"] = 5
    with pytest.raises(
        DataError, match=r"line 2: label\.steps\[2\]\.completions\[0\]\.rating: must be -1, 0, 1 or null"
    ):
        read(tmp_path, Purpose.PAIRS, PHASE_1, {**PHASE_1, "label": label})


# --- what version 0.1.0 read, and files that people have ------------------------------------------------------


def test_fields_of_other_forms_change_nothing_that_was_read_before(tmp_path: Path) -> None:
    """A record with a problem and an answer is one, whatever else it holds; its id stays."""
    more = {"prompt": "…", "chosen": "a", "rejected": "b", "completions": [], "labels": [], "reasoning_steps": []}
    record = {"id": 7, "problem": "x?", "answer": "2", **more}
    assert read(tmp_path, Purpose.EVALUATION, record) == [GradedProblem(id="7", problem="x?", answer="2")]
    (problem,) = read(tmp_path, Purpose.PROBLEMS, record)
    assert problem.model_dump() == {"id": "7", "problem": "x?"}


REAL = [
    ("qwen25_math_eval/gsm8k/test.jsonl", {"problems": 1319, "evaluation": 1319, "ift": 1319}),
    ("qwen25_math_eval/aime24/test.jsonl", {"problems": 30, "evaluation": 30, "ift": 30}),
    ("qwen25_math_eval/amc23/test.jsonl", {"problems": 40, "evaluation": 40}),
    ("qwen25_math_eval/gaokao2023en/test.jsonl", {"problems": 385, "evaluation": 385}),
    ("qwen25_math_eval/olympiadbench/test.jsonl", {"problems": 675, "evaluation": 675}),
    ("math_eval_harness/math/test.jsonl", {"problems": 5000, "evaluation": 5000, "ift": 5000}),
    ("openr_prm_samples/math_test500.jsonl", {"problems": 500, "evaluation": 500, "ift": 500}),
    ("openr_prm_samples/extracted_problems_and_answers.json", {"problems": 7500, "evaluation": 7500}),
    ("openr_prm_samples/samples_prm800k.jsonl", {"problems": 6, "evaluation": 5, "ift": 4, "pairs": 2}),
    ("openr_prm_samples/samples_math-shepherd.jsonl", {"problems": 7}),
    ("openr_prm_samples/samples_math-aps-tree.jsonl", {"problems": 3, "evaluation": 3, "ift": 3, "pairs": 7}),
    ("openr_prm_samples/samples_math-aps.jsonl", {"problems": 3, "evaluation": 3, "ift": 3, "pairs": 4}),
]


@pytest.mark.parametrize(("name", "counts"), REAL, ids=[name for name, _ in REAL])
def test_files_of_public_data_sets(name: str, counts: dict[str, int]) -> None:
    if not (DATA / name).is_file():
        pytest.skip(f"no {DATA / name}: public data sets are no part of the project")
    uri = file_uri(DATA / name)
    assert {purpose: len(list(open_door(STORAGE, uri, Purpose(purpose)).records())) for purpose in counts} == counts


def test_steps_of_real_solutions_keep_every_word() -> None:
    """Of GSM8K only the calculator's marks and the line of the answer go; of MATH nothing."""
    name = "math_eval_harness/math/test.jsonl"
    if not (DATA / name).is_file():
        pytest.skip(f"no {DATA / name}: public data sets are no part of the project")
    rows = [json.loads(line) for line in (DATA / name).read_text().splitlines()]
    from psr_runtime.data.records import IFTRecord

    for row, record in zip(rows, read_records(STORAGE, file_uri(DATA / name), IFTRecord), strict=True):
        texts = [step.partition(":")[2] for step in record.steps]
        assert " ".join(texts).split() == row["solution"].split()
