"""The pair set: preference pairs read off finished trees, and its files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from psr_runtime.data.records import PAIRS, Level, Pair, Tree

TREES = "trees.jsonl"
"""File of a pair set that holds `Tree` records."""


@dataclass(frozen=True)
class Origin:
    """Where the pairs of a search come from.

    Attributes:
        iteration: number of the round.
        model_digest, tokenizer_digest, template_digest: of the policy that sampled them.
    """

    iteration: int
    model_digest: str
    tokenizer_digest: str
    template_digest: str


def pairs_of(tree: Tree, prompt_ids: list[int], origin: Origin) -> list[Pair]:
    """The preference pairs of a tree's surviving path (paper §3.3). Steps accepted without a pair give none.

    Args:
        prompt_ids: ids of the problem's solver prompt.
    """
    pairs = []
    path_ids: list[list[int]] = []
    path: list[str] = []
    for number in tree.kept:
        level = tree.levels[number]
        assert level.best is not None
        if level.decision == "Keep":
            pairs.append(_pair(tree, level, prompt_ids, list(path_ids), path, origin))
        chosen = level.candidates[level.best]
        path_ids.append(chosen.ids)
        path.append(chosen.text)
    return pairs


def _pair(
    tree: Tree, level: Level, prompt_ids: list[int], path_ids: list[list[int]], path: list[str], origin: Origin
) -> Pair:
    """The best and the worst candidate of a level that follows the kept steps `path`."""
    assert level.best is not None
    assert level.worst is not None
    chosen, rejected = level.candidates[level.best], level.candidates[level.worst]
    return Pair(
        problem_id=tree.problem_id,
        iteration=origin.iteration,
        level=level.level,
        attempt=level.attempt,
        prompt_ids=prompt_ids,
        path_ids=path_ids,
        chosen_ids=chosen.ids,
        rejected_ids=rejected.ids,
        chosen_ended=chosen.ended,
        rejected_ended=rejected.ended,
        scores=[score for score in level.scores if score is not None],
        multiplicity=[level.distinct.count(level.distinct[index]) for index in (level.best, level.worst)],
        no_verdict=sum(verdict.choice is None for verdict in level.verdicts),
        model_digest=origin.model_digest,
        tokenizer_digest=origin.tokenizer_digest,
        template_digest=origin.template_digest,
        prompt="\n".join([tree.problem, *path]),
        chosen=chosen.text,
        rejected=rejected.text,
    )


def write_set(folder: Path, trees: Iterable[Tree], pairs: Iterable[Pair]) -> None:
    """`trees.jsonl` and `pairs.jsonl` of a pair set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in ((TREES, trees), (PAIRS, pairs)):
        with open(folder / name, "w", encoding="utf-8") as file:
            file.writelines(record.to_line() for record in records)
