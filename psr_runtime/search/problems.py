"""Problems of a search: read without their answers, and the window that one round takes (paper §4)."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

from psr_runtime.config import Questions
from psr_runtime.data.reading import open_door, print_said, with_ids
from psr_runtime.data.records import SearchProblem
from psr_runtime.data.schemas import Purpose
from psr_runtime.engine import seed_of
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage


def load_problems(storage: Storage, uri: str) -> list[SearchProblem]:
    """Problems for the search: id and text. Everything else in the file is dropped here, answers first of all.

    Raises:
        InputMissing: no such file or folder.
        DataError: a record is wrong, or an id stands twice.
    """
    door = open_door(storage, uri, Purpose.PROBLEMS)
    problems = with_ids(door.records())
    print_said(door)
    dropped = sorted(set(door.fields) - {"id", "problem", "question"})
    if dropped:
        print(f"search: {uri}: {', '.join(dropped)} not read; the search sees no answers", file=sys.stderr)
    return problems


def round_problems(problems: Sequence[SearchProblem], questions: Questions, seed: int) -> list[SearchProblem]:
    """The window of a round in one seeded permutation of the file; rounds are disjoint. Paper §4.

    Raises:
        DataError: the file has too few problems.
    """
    needed = questions.count if questions.allow_reuse else questions.offset + questions.count
    if needed > len(problems):
        raise DataError(
            f"problems: this round takes {questions.count} after the first {questions.offset}, and the file has "
            f"{len(problems)}; give more problems, ask for fewer or set allowReuse"
        )
    order = list(range(len(problems)))
    random.Random(seed_of(seed, "questions")).shuffle(order)
    return [problems[order[(questions.offset + index) % len(order)]] for index in range(questions.count)]
