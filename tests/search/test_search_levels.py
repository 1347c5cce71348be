"""Completions as candidates, what a judged level leads to, and where a search stands after its levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from psr_runtime.config import SearchConfig
from psr_runtime.data.records import Candidate, Level, SearchProblem
from psr_runtime.engine import Completion
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError
from psr_runtime.search.candidates import read_candidate
from psr_runtime.search.problems import load_problems
from psr_runtime.search.strategies.step_search import Position, decide
from psr_runtime.storage import Storage, file_uri
from tests.search.language import encode

# --- candidates


@pytest.mark.parametrize(
    ("sampled", "finish", "kept", "ended", "final", "fault"),
    [
        ("Step 2: 3 + 1 = 4;\nStep 3: ", "stop", "Step 2: 3 + 1 = 4;\n", "stop", False, None),
        ("Step 2: So it is \\boxed{4}\nStep 3: ", "stop", "Step 2: So it is \\boxed{4}\n", "stop", True, None),
        ("Step 2: So it is \\boxed{4}<end>", "stop", "Step 2: So it is \\boxed{4}<end>", "eos", True, None),
        ("Step 2: 3 + 1 = 4;\n<end>", "stop", "Step 2: 3 + 1 = 4;\n<end>", "eos", True, None),  # EOS ends a solution
        ("Step 2: 3 + 1 = 4;\n<end>", "length", "Step 2: 3 + 1 = 4;\n<end>", "eos", True, None),  # as the last token
        ("Step 1: 2 + 1 = 3.\nStep 3: ", "stop", "Step 1: 2 + 1 = 3.\n", "stop", False, "Malformed"),
        ("3 + 1 = 4;\nStep 3: ", "stop", "3 + 1 = 4;\n", "stop", False, "Malformed"),
        ("Step 2: \nStep 3: ", "stop", "Step 2: \n", "stop", False, "Malformed"),  # a header and nothing after it
        ("Step 2: 4;\n", "stop", "Step 2: 4;\n", "stop", False, "Malformed"),  # stopped, and no next step is there
        ("<end>", "stop", "<end>", "eos", False, "Malformed"),
        (
            "Step 2: 4;\nStep 3: \\boxed{4}<end>",
            "stop",
            "Step 2: 4;\nStep 3: \\boxed{4}<end>",
            "eos",
            False,
            "Malformed",
        ),
        ("Step 2: and on and on ", "length", "Step 2: and on and on ", "length", False, "Truncated"),
        ("Step 2: \\boxed{4}", "length", "Step 2: \\boxed{4}", "length", False, "Truncated"),
    ],
)
def test_a_completion_as_a_candidate(
    words: Tokenizer,
    sampled: str,
    finish: Literal["stop", "length"],
    kept: str,
    ended: str,
    final: bool,
    fault: str | None,
) -> None:
    """Ids are those sampled, cut where the next step begins; nothing is ever put behind them."""
    ids = encode(sampled)
    read = read_candidate(Completion(ids, finish), words, 2, context_full=False)
    assert (read.ids, read.ended, read.final, read.fault) == (encode(kept), ended, final, fault)
    assert read.ids == ids[: len(read.ids)]
    assert read.text == kept.replace("<end>", "").rstrip()


def test_a_step_cut_off_by_the_context_is_told_from_one_that_is_too_long(words: Tokenizer) -> None:
    ids = encode("Step 1: and on ")
    assert read_candidate(Completion(ids, "length"), words, 1, context_full=True).fault == "ContextFull"
    assert read_candidate(Completion([], "length"), words, 1, context_full=True).fault == "ContextFull"


# --- decisions


def candidate(text: str, **fields: Any) -> Candidate:
    return Candidate(**{"ids": encode(text), "text": text.rstrip(), "ended": "stop", "final": False} | fields)


GOOD = candidate("Step 1: 2 + 1 = 3.\n")
BAD = candidate("Step 1: 2 + 1 = 4.\n")
LONG = candidate("Step 1: and on ", ended="length", fault="Truncated")
FULL = candidate("Step 1: and on ", ended="length", fault="ContextFull")


@pytest.mark.parametrize(
    ("candidates", "scores", "distinct", "earlier_ties", "unanimous", "wanted"),
    [
        ([BAD, GOOD], [0, 1], 2, 0, False, ("Keep", "best", 1, 0)),
        ([GOOD, BAD, GOOD, BAD], [2, 0, 2, 0], 2, 3, False, ("Keep", "best", 0, 1)),  # ties go to the lowest index
        ([LONG, BAD, GOOD], [None, 0, 1], 2, 0, False, ("Keep", "best", 2, 1)),  # one with a fault is neither
        ([GOOD, BAD], [1, 1], 2, 0, True, ("RollBack", "tie", None, None)),  # never accepted: two texts
        ([GOOD, GOOD], [0, 0], 1, 0, False, ("RollBack", "unanimous", None, None)),
        ([LONG, GOOD, GOOD], [None, 0, 0], 1, 0, True, ("Accept", "unanimous", 1, None)),
        ([LONG, LONG], [None, None], 0, 0, True, ("RollBack", "unusable", None, None)),
        ([FULL, FULL], [None, None], 0, 0, False, ("End", "ContextFull", None, None)),
        ([], [], 0, 0, False, ("End", "ContextFull", None, None)),  # not even asked: no room
        ([FULL, LONG], [None, None], 0, 0, False, ("RollBack", "unusable", None, None)),
        ([GOOD, BAD], [1, 1], 2, 2, False, ("RollBack", "tie", None, None)),  # the third of three
        ([GOOD, BAD], [1, 1], 2, 3, False, ("End", "RollbackLimit", None, None)),
    ],
)
def test_what_a_judged_level_leads_to(
    candidates: list[Candidate],
    scores: list[int | None],
    distinct: int,
    earlier_ties: int,
    unanimous: bool,
    wanted: tuple[str, str, int | None, int | None],
) -> None:
    config = SearchConfig(max_rollbacks=3, accept_unanimous=unanimous)
    assert decide(candidates, scores, distinct, earlier_ties, config) == wanted


# --- positions

SECOND = candidate("Step 2: 3 + 1 = 4;\n")
LAST = candidate("Step 2: So it is \\boxed{4}<end>", ended="eos", final=True)


class Log:
    """Levels of one problem, each written where the ones before it lead."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self.levels: list[Level] = []

    @property
    def position(self) -> Position:
        return Position.after(self.levels, self.config)

    def keep(self, chosen: Candidate) -> Log:
        return self._add(decision="Keep", reason="best", candidates=[BAD, chosen], best=1, worst=0)

    def tie(self) -> Log:
        return self._add(decision="RollBack", reason="tie", candidates=[BAD, GOOD])

    def end(self, reason: str) -> Log:
        return self._add(decision="End", reason=reason, candidates=[])

    def _add(self, **fields: Any) -> Log:
        here = self.position
        self.levels.append(
            Level(
                problem_id="q0",
                number=here.count,
                level=here.level,
                attempt=here.attempt,
                path_digest=here.digest,
                distinct=[0, 1],
                verdicts=[],
                scores=[0, 1],
                **fields,
            )
        )
        return self


CONFIG = SearchConfig(max_iterations=6, max_rollbacks=3)


def test_a_search_stands_where_its_levels_lead() -> None:
    log = Log(CONFIG).keep(GOOD)
    assert (log.position.level, log.position.ids, log.position.texts) == (2, GOOD.ids, [GOOD.text])
    assert (log.position.attempt, log.position.ties, log.position.outcome) == (0, 0, None)

    log.tie()  # at level 2: the first step is dropped and sampled anew
    assert (log.position.level, log.position.ids, log.position.attempt, log.position.ties) == (1, [], 1, 0)

    log.keep(BAD)  # back at level 2, where one tie was counted and one level was sampled
    assert (log.position.level, log.position.ids, log.position.attempt, log.position.ties) == (2, BAD.ids, 1, 1)
    assert [step.number for step in log.position.path] == [2]  # the third of the log

    log.keep(LAST)
    assert (log.position.outcome, [step.number for step in log.position.path]) == ("Solved", [2, 3])


def test_a_tie_at_the_first_level_stays_there() -> None:
    log = Log(CONFIG).tie().tie()
    assert (log.position.level, log.position.attempt, log.position.ties) == (1, 2, 2)


def test_how_searches_end_without_a_solution() -> None:
    assert Log(CONFIG).keep(GOOD).end("RollbackLimit").position.outcome == "RollbackLimit"
    assert Log(CONFIG).keep(GOOD).end("ContextFull").position.outcome == "ContextFull"
    walk = Log(CONFIG)
    for _ in range(3):
        assert walk.position.outcome is None
        walk.keep(GOOD).tie()
    assert walk.position.outcome == "IterationLimit"  # six levels were sampled, rolled-back ones included
    solved = Log(SearchConfig(max_iterations=2)).keep(GOOD).keep(LAST)
    assert solved.position.outcome == "Solved"  # on the last iteration allowed


def test_levels_that_do_not_continue_one_another_are_refused() -> None:
    levels = Log(CONFIG).keep(GOOD).keep(SECOND).levels
    other = Log(CONFIG).keep(BAD).levels
    for foreign in ([levels[1]], [levels[0], levels[0]], [other[0], levels[1]]):
        with pytest.raises(DataError, match=r"problem q0: record \d does not continue the one before"):
            Position.after(foreign, CONFIG)
    with pytest.raises(DataError, match="record 0 does not continue"):
        Position.after([levels[0].model_copy(update={"path_digest": "0" * 16})], CONFIG)


def test_a_problem_file_may_begin_with_an_empty_line(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('\n{"id": "a", "problem": "1 + 1?", "answer": 2}\n')
    (problem,) = load_problems(Storage(), file_uri(tmp_path / "problems.jsonl"))
    assert problem == SearchProblem(id="a", problem="1 + 1?")
