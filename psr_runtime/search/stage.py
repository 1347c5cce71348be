"""`search`: one shard of preference generation, and `pairs_of`, which reads pairs off finished trees.

The level log under `<output>/log` is flushed to the storage level by level; a rerun replays it and asks only what is
missing. The artefact is `trees.jsonl` and `pairs.jsonl` in the order of the round's problems.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from psr_runtime.artefacts.checkpoints import fetch_tokenizer
from psr_runtime.artefacts.journal import Journal
from psr_runtime.artefacts.manifest import other_digest
from psr_runtime.config import Questions, SearchStage, stage_digest
from psr_runtime.config.results import PairSetResult
from psr_runtime.data.reading import read_records, with_ids
from psr_runtime.data.records import PAIRS, Level, Pair, SearchProblem, Tree
from psr_runtime.engine import Engine, open_engine, seed_of
from psr_runtime.errors import DataError
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.search.judge import Judge
from psr_runtime.search.step_search import StepSearch
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.storage import Storage, join


def run(config: SearchStage, context: StageContext) -> Outcome:
    """Search this shard's problems and publish their trees and pairs."""
    tokenizer = fetch_tokenizer(context.storage, config.model, context.scratch)
    problems = round_problems(load_problems(context.storage, config.problems), config.questions, config.seed)
    mine = problems[config.shard :: config.shards]
    trees = context.run_async(_search_all(config, context, tokenizer, mine))
    pairs = [
        pair
        for tree in trees
        for pair in pairs_of(
            tree, config, tokenizer, context.inputs["model.uri"].digest, _prompt_ids(config, tokenizer, tree.problem)
        )
    ]
    folder = context.scratch / "output"
    write_set(folder, trees, pairs)
    digests = {path: entry.digest for path, entry in context.inputs.items()}
    metadata = {
        "search": stage_digest("search", 0, config.model_copy(update={"shard": 0}), digests),
        "problems": [problem.id for problem in mine],
        "tokenizer_digest": tokenizer.digest,
        "template_digest": tokenizer.template_digest,
    }
    return Outcome(folder, metadata, statistics(trees, pairs))


def load_problems(storage: Storage, uri: str) -> list[SearchProblem]:
    """Problems for the search: id and text. Everything else in the file is dropped here, answers first of all."""
    problems = with_ids(read_records(storage, uri, SearchProblem))
    first = json.loads(next(line for line in storage.read(uri).split(b"\n") if line.strip()))
    dropped = sorted(set(first) - {"id", "problem", "question"})
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


async def _search_all(
    config: SearchStage, context: StageContext, tokenizer: Tokenizer, problems: Sequence[SearchProblem]
) -> list[Tree]:
    journal = Journal(context.storage, join(config.output, "log"))
    try:
        logged: dict[str, dict[int, Level]] = defaultdict(dict)
        for record in journal.replay():
            if record["digest"] != context.digest:
                raise DataError(other_digest(join(config.output, "log"), context.digest, record["digest"]))
            level = Level.model_validate(record["level"])
            logged[level.problem_id].setdefault(level.number, level)
        async with open_engine(config.server, context.inputs["model.uri"].digest) as engine:
            trees = await _search(config, context, tokenizer, problems, engine, journal, logged)
            report_usage(engine)
            return trees
    finally:
        journal.close()


async def _search(
    config: SearchStage,
    context: StageContext,
    tokenizer: Tokenizer,
    problems: Sequence[SearchProblem],
    engine: Engine,
    journal: Journal,
    logged: dict[str, dict[int, Level]],
) -> list[Tree]:
    length = await engine.context_length()
    prompts = [_prompt_ids(config, tokenizer, problem.problem) for problem in problems]
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) >= length:
            raise DataError(
                f"{config.problems}: problem {problem.id}: its prompt has {len(prompt)} tokens and the model's context "
                f"{length}; shorten or remove it, or raise server.engine.maxModelLen"
            )
    seed = (config.seed, config.iteration)
    judge = Judge(
        engine, tokenizer, Templates.of(config.prompts), config.judge, length, config.search.seeded_requests, seed
    )
    search = StepSearch(engine, tokenizer, judge, config.search, length, seed)
    context.progress.start(len(problems), "problems")
    slots = asyncio.Semaphore(config.search.concurrency)

    async def log(level: Level) -> None:
        await journal.append({"digest": context.digest, "level": level.model_dump(mode="json", exclude_none=True)})

    async def one(problem: SearchProblem, prompt: list[int]) -> Tree:
        async with slots:
            done = [logged[problem.id][number] for number in sorted(logged[problem.id])]
            tree = await search.run(problem, prompt, done, log)
            context.progress.advance()
            return tree

    return await asyncio.gather(*(one(*item) for item in zip(problems, prompts, strict=True)))


def _prompt_ids(config: SearchStage, tokenizer: Tokenizer, problem: str) -> list[int]:
    return tokenizer.prompt_ids(Templates.of(config.prompts).solve_messages(problem))


def pairs_of(
    tree: Tree, config: SearchStage, tokenizer: Tokenizer, model_digest: str, prompt_ids: list[int]
) -> list[Pair]:
    """The preference pairs of a tree's surviving path (paper §3.3). Steps accepted without a pair give none."""
    pairs = []
    path: list[list[int]] = []
    texts: list[str] = []
    for number in tree.kept:
        level = tree.levels[number]
        assert level.best is not None
        chosen = level.candidates[level.best]
        if level.decision == "Keep":
            assert level.worst is not None
            rejected = level.candidates[level.worst]
            prompt = [tree.problem, *texts]
            pairs.append(
                Pair(
                    problem_id=tree.problem_id,
                    iteration=config.iteration,
                    level=level.level,
                    attempt=level.attempt,
                    prompt_ids=prompt_ids,
                    path_ids=list(path),
                    chosen_ids=chosen.ids,
                    rejected_ids=rejected.ids,
                    chosen_ended=chosen.ended,
                    rejected_ended=rejected.ended,
                    scores=[value for value in level.scores if value is not None],
                    multiplicity=[
                        level.distinct.count(level.distinct[level.best]),
                        level.distinct.count(level.distinct[level.worst]),
                    ],
                    no_verdict=sum(verdict.choice is None for verdict in level.verdicts),
                    model_digest=model_digest,
                    tokenizer_digest=tokenizer.digest,
                    template_digest=tokenizer.template_digest,
                    prompt="\n".join(prompt),
                    chosen=chosen.text,
                    rejected=rejected.text,
                )
            )
        path.append(chosen.ids)
        texts.append(chosen.text)
    return pairs


def write_set(folder: Path, trees: Iterable[Tree], pairs: Iterable[Pair]) -> None:
    """`trees.jsonl` and `pairs.jsonl` of a pair set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("trees.jsonl", trees), (PAIRS, pairs)):
        with open(folder / name, "w", encoding="utf-8") as file:
            file.writelines(record.to_line() for record in records)


def statistics(trees: Sequence[Tree], pairs: Sequence[Pair]) -> PairSetResult:
    """Counts of a pair set for result and report; nothing in them varies between equal runs."""
    levels = [level for tree in trees for level in tree.levels]
    verdicts = [verdict for level in levels for verdict in level.verdicts]
    given = [verdict for verdict in verdicts if verdict.choice is not None]
    candidates = [candidate for level in levels for candidate in level.candidates]
    agreeing = [agrees for level in levels for agrees in order_agreement(level)]
    outcomes = [tree.outcome for tree in trees]
    return PairSetResult(
        problems=len(trees),
        pairs=len(pairs),
        levels=len(levels),
        candidates=len(candidates),
        malformed=sum(item.fault == "Malformed" for item in candidates),
        truncated=sum(item.fault in ("Truncated", "ContextFull") for item in candidates),
        verdicts=len(verdicts),
        no_verdict=len(verdicts) - len(given),
        share_a=round(sum(item.choice == "A" for item in given) / len(given), 4) if given else None,
        agreement=round(sum(agreeing) / len(agreeing), 4) if agreeing else None,
        unanimous=sum(level.decision == "Accept" for level in levels),
        rollbacks=sum(level.decision == "RollBack" for level in levels),
        candidate_tokens=sum(level.candidate_tokens for level in levels),
        judge_tokens=sum(level.judge_tokens for level in levels),
        outcomes={name: outcomes.count(name) for name in sorted(set(outcomes))},
    )


def order_agreement(level: Level) -> list[bool]:
    """For each unordered pair that was judged in both orders: whether both calls prefer the same text."""
    choices = {(item.a, item.b): item.choice for item in level.verdicts}
    return [
        choice != choices[b, a]
        for (a, b), choice in choices.items()
        if a < b and choice is not None and choices.get((b, a)) is not None
    ]


def report_usage(engine: Engine) -> None:
    """Print what the server was asked and how much of it came from its prefix cache."""
    for purpose, usage in sorted(engine.usage.items()):
        cached = f" ({usage.cached_tokens / usage.prompt_tokens:.0%} cached)" if usage.cached_tokens else ""
        print(
            f"search: {purpose}: {usage.requests} requests, {usage.prompt_tokens} prompt tokens{cached}, "
            f"{usage.completion_tokens} sampled",
            file=sys.stderr,
        )
