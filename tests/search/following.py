"""What must hold between requests, trees and pairs of any search, whoever answered."""

from __future__ import annotations

from collections.abc import Sequence

from psr_runtime.data.records import Level, Pair, Tree
from psr_runtime.engine import seed_of
from psr_runtime.prompts.tokens import Tokenizer
from tests.search.language import encode
from tests.search.standin import Request


def assert_prompts_follow(requests: Sequence[Request], trees: Sequence[Tree]) -> int:
    """Each level's prompt is the chat prompt and the kept candidates' ids as sampled; the longest path, in steps.

    Levels are known by their seeds, of run seed 0 and iteration 1.
    """
    candidates = [request for request in requests if request.purpose == "candidates"]
    asked = {request.sampling.seed: request for request in candidates}
    assert len(asked) == len(candidates) == sum(len(tree.levels) for tree in trees)
    deepest = 0
    for tree in trees:
        path: list[list[int]] = []
        for level in tree.levels:
            request = asked[seed_of(0, 1, tree.problem_id, level.level, level.attempt, "candidates")]
            assert len(path) == level.level - 1
            assert request.prompt_ids == encode(f"<user>{tree.problem}") + [token for step in path for token in step]
            assert request.sampling.stop == (f"\nStep {level.level + 1}:",)
            assert request.affinity == tree.problem_id
            if level.best is not None:
                path.append(level.candidates[level.best].ids)
            elif path:
                path.pop()
            deepest = max(deepest, len(path))
    return deepest


def assert_pairs_follow(pairs: Sequence[Pair], trees: Sequence[Tree], words: Tokenizer, model_digest: str) -> None:
    """Pairs are those of the surviving paths' judged levels, in order, and nothing else."""
    judged = [
        (tree, tree.levels[number]) for tree in trees for number in tree.kept if tree.levels[number].decision == "Keep"
    ]
    for pair, (tree, level) in zip(pairs, judged, strict=True):
        assert level.best is not None
        assert level.worst is not None
        chosen, rejected = level.candidates[level.best], level.candidates[level.worst]
        assert (pair.problem_id, pair.level, pair.attempt) == (tree.problem_id, level.level, level.attempt)
        assert (pair.chosen_ids, pair.chosen_ended, pair.chosen) == (chosen.ids, chosen.ended, chosen.text)
        assert (pair.rejected_ids, pair.rejected_ended, pair.rejected) == (rejected.ids, rejected.ended, rejected.text)
        before = [tree.levels[number] for number in tree.kept if tree.levels[number].level < level.level]
        assert pair.path_ids == [item.candidates[item.best].ids for item in before if item.best is not None]
        assert pair.prompt_ids == encode(f"<user>{tree.problem}")
        assert level.scores[level.best] == max(pair.scores) > min(pair.scores) == level.scores[level.worst]
        assert pair.multiplicity == [[c.text for c in level.candidates].count(c.text) for c in (chosen, rejected)]
        assert pair.no_verdict == sum(verdict.choice is None for verdict in level.verdicts)
        assert (pair.tokenizer_digest, pair.template_digest) == (words.digest, words.template_digest)
        assert pair.model_digest == model_digest


def seeds_of(level: Level) -> set[int]:
    """Seeds of all requests that a finished level was made from."""
    here = (0, 1, level.problem_id, level.level, level.attempt)
    texts = list(dict.fromkeys(item.text for item in level.candidates if not item.fault))
    return {
        seed_of(*here, "candidates"),
        *(seed_of(*here, "judge", texts[item.a], texts[item.b]) for item in level.verdicts),
    }
