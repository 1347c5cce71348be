"""What states a final answer and what only mentions one; the search and the grader find the same."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psr_runtime.prompts.grammar import answer_sentence, boxed, is_final

MATH = Path(__file__).parents[3] / "shared/data/math_eval_harness/math/test.jsonl"

BOXES = {
    r"\boxed{42}": "42",
    r"so $\boxed {42}$.": "42",
    r"\fbox{42}": "42",
    r"\fbox {42}": "42",
    r"\boxed{\frac{1}{2}}": r"\frac{1}{2}",
    r"\boxed{\{1, 2\}}": r"\{1, 2\}",
    r"\boxed{\left\{1, 2\right.}": r"\left\{1, 2\right.",  # escaped braces need no partner
    r"\boxed{\{\}}": r"\{\}",  # the empty set is an answer
    r"\boxed{\emptyset}": r"\emptyset",
    r"\boxed{\text{Evelyn}}": r"\text{Evelyn}",
    r"\boxed{3} no, \boxed{18}": "18",
    r"\boxed{18} and then \boxed{3": "18",  # unclosed
    r"\boxed{18 and then \boxed{3}": "3",
    r"{ \boxed{18}": "18",
    r"\boxed{18}} \boxed{}": "18",  # an empty one takes nothing back
    r"\boxed{\boxed{5}}": "5",
    r"`x` is \boxed{5}": "5",
    r'"The rest is \boxed{5}"': "5",  # the sentence is quoted, not the box
    r"\boxed{answer = 5}": "answer = 5",
    r"The answer is $\boxed{5}$.": "5",
    r"We checked whether the answer is 4. It is not. \boxed{5}": "5",
}
NO_BOXES = [
    *(r"\boxed{}", r"\boxed{ }", r"\boxed{\,}", r"\boxed{...}", r"\boxed{\ldots}", r"\boxed{?}", r"\boxed{\text{}}"),
    *(r"\boxed{\boxed{}}", r"\boxed{3", r"\boxed 3", r"\boxed", r"\boxedly{3}", r"boxed{3}", r"{3}", "}", "{", ""),
    *(r"We write it as `\boxed{5}`.", r'Put it into "\boxed{x}".', r"As “$\boxed{x}$”, say.", r"'\boxed{5}'"),
    *(r"We check whether the answer is \boxed{5}.", r"Let us verify that the final answer is $\boxed{5}$."),
    *(r"The answer is not \boxed{5}.", r"Suppose the answer is: \boxed {5}"),
    *(r"The form is \boxed{answer}.", r"\boxed{\text{your answer}}", r"\boxed{final answer here}"),
]
STATED = [
    *("The answer is 42.", "Step 3: So the final answer is: 42", "the answer is $x^2$", "THE ANSWER IS\n\n42"),
    *("The answer is **42**", r"The answer is \(42\).", "The answer is -3.5 metres.", "The answer is Evelyn."),
    *("The answer is A.", "The answer is therefore 42.", "We see that the answer is 5.", "I think the answer is 5."),
    *(
        "If we add them, the answer is 5.",
        "The answer is the number 12.",
        "The answer is ∞.",
        "The answer is not 3. The answer is 5.",
    ),
    "We check whether the answer is 5. It is. The answer is 5.",
    "The answer is:\n\n$$42$$",
]
MENTIONED = [
    *("We check whether the answer is 5.", "Let us see if the answer is 5.", "Make sure that the answer is 5."),
    *("We verify that the final answer is 5.", "Suppose the answer is 5.", "We do not know what the answer is."),
    *("What if the answer is 5?", "Is it so that the answer is 5?", "The answer is not 5.", "The answer is correct."),
    *("The answer is", "The answer is:", "The answer is ...", r"The answer is \boxed{}", "The answer is to be found."),
    *("The answer is an integer.", "The answer is the sum of both.", "The answer is\nStep 2: 5", "the answer isn't 5"),
    *("The answer is Step 2: 5", "Step 5: Then we add.", "42", "answer: 42"),
]


@pytest.mark.parametrize(("text", "content"), BOXES.items())
def test_a_box_that_states_an_answer_ends_the_solution(text: str, content: str) -> None:
    assert boxed(text) == content
    assert is_final(f"Step 2: so {text}")


@pytest.mark.parametrize("text", NO_BOXES)
def test_a_box_that_states_none_ends_no_solution(text: str) -> None:
    assert boxed(text) is None
    assert not is_final(f"Step 2: so {text}")


@pytest.mark.parametrize("text", STATED)
def test_a_sentence_that_states_the_answer_ends_the_solution(text: str) -> None:
    assert answer_sentence(text) is not None
    assert is_final(text)


@pytest.mark.parametrize("text", MENTIONED)
def test_a_sentence_about_the_answer_ends_no_solution(text: str) -> None:
    assert answer_sentence(text) is None
    assert not is_final(text)


@given(
    st.lists(st.sampled_from([r"\boxed{", r"\fbox {", "{", "}", r"\{", r"\}", "5", "`", "the answer is ", "\n", "? "]))
)
def test_nothing_that_a_model_writes_stops_the_reading(parts: list[str]) -> None:
    text = "".join(parts)
    content = boxed(text)
    assert content is None or content in text
    assert is_final(text) == (content is not None or answer_sentence(text) is not None)


@pytest.mark.parametrize("text", [r"\boxed{" * 20_000 + " " + "}" * 20_000, "the answer is " * 5_000, "{" * 100_000])
def test_reading_takes_time_in_proportion_to_the_text(text: str) -> None:
    started = time.process_time()
    is_final(text)
    assert time.process_time() - started < 2  # trying each start by itself would take minutes


def test_every_solution_of_math_states_its_answer() -> None:
    if not MATH.is_file():
        pytest.skip(f"{MATH} is not here: MATH comes with the shared data")
    solutions = [json.loads(line)["solution"] for line in MATH.read_text().splitlines()]
    assert [text for text in solutions if boxed(text) is None] == []
