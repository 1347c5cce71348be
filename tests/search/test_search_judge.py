"""What the judge is asked, in which words and with which seeds, and its controls."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psr_runtime.config import JudgeConfig, Prompts
from psr_runtime.data.records import Verdict
from psr_runtime.engine import seed_of
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.search.judges import Assessment, CandidateSet, JudgeSetup
from psr_runtime.search.judges.controls import CONTROLS, Inverted
from psr_runtime.search.judges.pairwise import Pairwise
from psr_runtime.search.scores import wins
from tests.search.language import PROMPTS, encode
from tests.search.standin import StandIn

PROBLEM = "How much is 2 + 1 + 1?"
TEXTS = ["Step 1: 2 + 1 = 3.", "Step 1: 2 + 1 = 4.", "Step 1: 2 + 1 = 5."]


def candidate_set(texts: list[str]) -> CandidateSet:
    return CandidateSet("q0", PROBLEM, [], texts, [1] * len(texts), level=1, attempt=0)


def judged(
    words: Tokenizer, config: JudgeConfig, texts: list[str] = TEXTS, *, context: int = 512, seeded: bool = True
) -> tuple[StandIn, list[Verdict], int]:
    engine = StandIn(context=context)
    setup = JudgeSetup(engine, words, Templates.of(Prompts(**PROMPTS)), config, context, seeded, (7, 1))
    judge = CONTROLS[config.control](Pairwise(setup), setup)
    assessment = asyncio.run(judge.assess(candidate_set(texts)))
    assert assessment.scores == wins([1] * len(texts), assessment.verdicts, config.orders)
    return engine, list(assessment.verdicts), assessment.tokens


def test_the_prompt_is_the_one_that_judging_is_learned_from(words: Tokenizer) -> None:
    engine, verdicts, tokens = judged(words, JudgeConfig(temperature=1.0, max_tokens=4))
    templates = Templates.of(Prompts(**PROMPTS))
    wanted = [words.prompt_ids(templates.judge_messages(PROBLEM, [], TEXTS[v.a], TEXTS[v.b])) for v in verdicts]
    assert [request.prompt_ids for request in engine.requests] == wanted
    first = f"<user>{PROBLEM}\nA: Step 1: 2 + 1 = 3.\nB: Step 1: 2 + 1 = 4.\nCheck:"
    assert wanted[0] == encode(first)
    assert [(verdict.a, verdict.b) for verdict in verdicts] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert {(request.purpose, request.affinity) for request in engine.requests} == {("judge", "q0")}
    assert all(verdict.choice in (verdict.text[:1], None) for verdict in verdicts)  # "A is right. [[A]]"
    assert tokens == engine.usage["judge"].completion_tokens


def test_a_judgement_that_is_cut_off_or_decides_nothing_is_no_verdict(words: Tokenizer) -> None:
    _, verdicts, _ = judged(words, JudgeConfig(max_tokens=1))
    assert {verdict.choice for verdict in verdicts} == {None}
    assert {verdict.text for verdict in verdicts} == {"A is right. "}


def test_a_judgement_that_is_cut_off_gives_no_verdict_whatever_it_quotes(words: Tokenizer) -> None:
    """Its tokens are used up right after a verdict: whether it would have gone on, nobody knows."""
    _, verdicts, _ = judged(words, JudgeConfig(max_tokens=2))
    assert {verdict.text for verdict in verdicts} == {"A is right. [[A]]"}
    assert {verdict.choice for verdict in verdicts} == {None}
    _, verdicts, _ = judged(words, JudgeConfig(max_tokens=3))
    assert {verdict.choice for verdict in verdicts} == {"A"}


def test_a_comparison_that_does_not_fit_the_context_is_not_asked(words: Tokenizer) -> None:
    length = len(encode(f"<user>{PROBLEM}\nA: {TEXTS[0]}\nB: {TEXTS[1]}\nCheck:"))
    engine, verdicts, tokens = judged(words, JudgeConfig(), context=length)
    assert (engine.requests, tokens) == ([], 0)
    assert {verdict.choice for verdict in verdicts} == {None}
    engine, _, _ = judged(words, JudgeConfig(), context=length + 2)
    assert {request.sampling.max_tokens for request in engine.requests} == {2}


def test_seeds_are_sent_where_something_is_drawn(words: Tokenizer) -> None:
    greedy, _, _ = judged(words, JudgeConfig(temperature=0.0))
    unseeded, _, _ = judged(words, JudgeConfig(temperature=1.0), seeded=False)
    drawn, _, _ = judged(words, JudgeConfig(temperature=1.0))
    assert {request.sampling.seed for request in greedy.requests + unseeded.requests} == {None}
    seeds = [request.sampling.seed for request in drawn.requests]
    assert len(set(seeds)) == 6
    assert seeds[0] == seed_of(7, 1, "q0", 1, 0, "judge", TEXTS[0], TEXTS[1])


def test_an_inverted_judge_says_the_opposite(words: Tokenizer) -> None:
    _, plain, _ = judged(words, JudgeConfig(temperature=1.0))
    _, inverted, _ = judged(words, JudgeConfig(temperature=1.0, control="Inverted"))
    other = {"A": "B", "B": "A", None: None}
    assert [item.choice for item in inverted] == [other[item.choice] for item in plain]
    assert {item.choice for item in plain} >= {"A", "B"}
    assert [item.text for item in inverted] == [item.text for item in plain]


def test_a_random_judge_asks_nobody_and_is_a_fair_and_repeatable_coin(words: Tokenizer) -> None:
    many = [f"Step 1: {number}" for number in range(20)]
    engine, verdicts, tokens = judged(words, JudgeConfig(control="Random"), many)
    assert (engine.requests, tokens) == ([], 0)
    counts = Counter(verdict.choice for verdict in verdicts)
    assert set(counts) == {"A", "B"}
    assert 140 <= counts["A"] <= 240  # of 380; four standard deviations are 39
    assert judged(words, JudgeConfig(control="Random"), many)[1] == verdicts


def test_a_judge_that_scores_steps_one_by_one_is_inverted_too(words: Tokenizer) -> None:
    class Lengths:
        async def assess(self, candidates: CandidateSet) -> Assessment:
            return Assessment([len(text) / 2 for text in candidates.texts], tokens=3)

    setup = JudgeSetup(StandIn(), words, Templates.of(Prompts(**PROMPTS)), JudgeConfig(), 512, True, (7, 1))
    assessment = asyncio.run(Inverted(Lengths(), setup).assess(candidate_set(["a", "bcd"])))
    assert assessment == Assessment([-0.5, -1.5], tokens=3)


# --- seeds and templates

parts = st.lists(st.one_of(st.integers(0, 9), st.text("a1,", max_size=2)), min_size=1, max_size=4)


@given(parts, parts)
def test_seeds_have_48_bits_and_other_parts_give_other_seeds(one: list[str | int], other: list[str | int]) -> None:
    assert 0 <= seed_of(*one) < 2**48
    same = [str(part) for part in one] == [str(part) for part in other]
    assert (seed_of(*one) == seed_of(*other)) == same


def test_seeds_use_all_their_bits_and_leave_no_neighbours() -> None:
    """vLLM gives child i of a request `seed + i`: seeds must lie further apart than a width."""
    seeds = sorted(seed_of(0, 1, f"q{n}", level, 0, "candidates") for n in range(300) for level in range(1, 6))
    assert min(b - a for a, b in itertools.pairwise(seeds)) > 64
    assert [sum(seed >> bit & 1 for seed in seeds) in range(600, 901) for bit in range(48)] == [True] * 48


def test_what_is_put_into_a_template_is_not_read_as_one() -> None:
    tricky = "What is {Step A}, {problem}, {Step B} or {Question and Partial Reasoning Steps}?"
    templates = Templates("<{problem}>", "{Step B}|{Question and Partial Reasoning Steps}|{Step A}")
    (solve,) = templates.solve_messages(tricky)
    assert solve == {"role": "user", "content": f"<{tricky}>"}
    (judge,) = templates.judge_messages(tricky, ["Step 1: {Step B}\n"], "Step 2: {Step B}\n", "Step 2: {Step A} ")
    assert judge["content"] == f"Step 2: {{Step A}}|{tricky}\nStep 1: {{Step B}}|Step 2: {{Step B}}"


def test_the_papers_prompts_are_used_unless_others_are_given() -> None:
    templates = Templates.of(Prompts(system_message="Be brief."))
    system, user = templates.judge_messages("P", [], "Step 1: a", "Step 1: b")
    assert system == {"role": "system", "content": "Be brief."}
    assert "[Question and Intermediate Reasoning Steps Provided]\nP\n[The Start of Assistant A’s" in user["content"]
    assert "Next Reasoning Step]\nStep 1: b\n[The End of Assistant B’s Next Reasoning Step]" in user["content"]


@pytest.mark.parametrize("judge", ["{Question and Partial Reasoning Steps} {Step A}", PROMPTS["judge"] + "{Step A}"])
def test_a_template_with_a_placeholder_too_few_or_too_many_is_refused(judge: str) -> None:
    with pytest.raises(ConfigurationError, match=r"prompts\.judge: \{Step [AB]\} must stand in it exactly once"):
        Templates.of(Prompts(judge=judge))
