"""`search`: one shard of preference generation.

The level log under `<output>/log` is flushed to the storage level by level; a rerun replays it and asks only what is
missing. The artefact is `trees.jsonl` and `pairs.jsonl` in the order of the round's problems. How a problem is searched
and who judges are named by the configuration.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psr_runtime.artefacts.checkpoints import fetch_tokenizer
from psr_runtime.artefacts.differences import OtherConfiguration
from psr_runtime.artefacts.journal import Journal
from psr_runtime.config import SearchStage, stage_digest
from psr_runtime.data.records import Level, SearchProblem, Tree
from psr_runtime.engine import Engine, open_engine
from psr_runtime.prompts.chat import prompt_digest, require_same_prompt
from psr_runtime.prompts.grammar import header
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError
from psr_runtime.search.judges import JUDGES, JudgeSetup
from psr_runtime.search.judges.controls import CONTROLS
from psr_runtime.search.pairs import Origin, pairs_of, write_set
from psr_runtime.search.problems import load_problems, round_problems
from psr_runtime.search.statistics import statistics
from psr_runtime.search.strategies import STRATEGIES, SearchSetup, SearchStrategy
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.storage import join


@dataclass(frozen=True)
class Question:
    """A problem as it is searched.

    Attributes:
        prompt_ids: ids of its solver prompt.
    """

    problem: SearchProblem
    prompt_ids: list[int]


def run(config: SearchStage, context: StageContext) -> Outcome:
    """Search this shard's problems and publish their trees and pairs.

    Raises:
        ConfigurationError: a judge or a strategy that nobody brings.
        InputMissing: model or problems are not there.
        DataError: too few problems, a broken one, a prompt that fills the context, a log of another configuration.
        Interrupted: asked to stop, or the server did not become ready.
    """
    JUDGES.load(config.judge.strategy)  # a name that nobody brings ends the stage before anything is read
    STRATEGIES.load(config.search.strategy)
    tokenizer = fetch_tokenizer(context.storage, config.model, context.scratch, config.prompts.thinking)
    problems = round_problems(load_problems(context.storage, config.problems), config.questions, config.seed)
    templates = Templates.of(config.prompts)
    _check_steps(tokenizer, config.model.uri)
    problems = problems[config.shard :: config.shards]
    prompts = tokenizer.prompts_ids([templates.solve_messages(problem.problem) for problem in problems])
    questions = [Question(problem, prompt) for problem, prompt in zip(problems, prompts, strict=True)]
    trees = context.run_async(_search_all(config, context, tokenizer, questions))
    origin = Origin(config.iteration, context.inputs["model.uri"].digest, tokenizer.digest, tokenizer.template_digest)
    pairs = [
        pair
        for tree, question in zip(trees, questions, strict=True)
        for pair in pairs_of(tree, question.prompt_ids, origin)
    ]
    folder = context.scratch / "output"
    write_set(folder, trees, pairs)
    digests = {path: entry.digest for path, entry in context.inputs.items()}
    metadata = {
        "search": stage_digest("search", 0, config.model_copy(update={"shard": 0}), digests),
        "problems": [question.problem.id for question in questions],
        "tokenizer_digest": tokenizer.digest,
        "template_digest": tokenizer.template_digest,
        "frame": tokenizer.chat.frame,
    }
    return Outcome(folder, metadata, statistics(trees, pairs))


async def _search_all(
    config: SearchStage, context: StageContext, tokenizer: Tokenizer, questions: Sequence[Question]
) -> list[Tree]:
    """The tree of each question, in their order."""
    prompts = {question.problem.id: prompt_digest(question.prompt_ids) for question in questions}
    journal = Journal(context.storage, join(config.output, "log"))
    try:
        finished = _finished_levels(journal, config.output, context.digest, tokenizer, prompts)
        async with open_engine(config.server, context.inputs["model.uri"].digest) as engine:
            context_length = await engine.context_length()
            _check_prompts_fit(questions, context_length, config.problems)
            strategy = _strategy(config, tokenizer, engine, context_length)
            context.progress.start(len(questions), "problems")
            slots = asyncio.Semaphore(config.search.concurrency)

            async def log(level: Level) -> None:
                document = level.model_dump(mode="json", exclude_none=True)
                prompt = prompts[level.problem_id]
                await journal.append({"digest": context.digest, "prompt": prompt, "level": document})

            async def search(question: Question) -> Tree:
                async with slots:
                    tree = await strategy.search(
                        question.problem, question.prompt_ids, finished[question.problem.id], log
                    )
                    context.progress.advance()
                    return tree

            trees = await asyncio.gather(*(search(question) for question in questions))
            print_usage(engine)
            return trees
    finally:
        journal.close()


def _strategy(config: SearchStage, tokenizer: Tokenizer, engine: Engine, context_length: int) -> SearchStrategy:
    """The strategy that the configuration names, with the judge that it names and the control around it."""
    seed = (config.seed, config.iteration)
    templates = Templates.of(config.prompts)
    setup = JudgeSetup(engine, tokenizer, templates, config.judge, context_length, config.search.seeded_requests, seed)
    judge = CONTROLS[config.judge.control](JUDGES.load(config.judge.strategy)(setup), setup)
    return STRATEGIES.load(config.search.strategy)(
        SearchSetup(engine, tokenizer, judge, config.search, context_length, seed)
    )


def _finished_levels(
    journal: Journal, output: str, digest: str, tokenizer: Tokenizer, prompts: Mapping[str, str]
) -> dict[str, list[Level]]:
    """Levels that earlier attempts logged, by problem id, in order; of two with one number the first stands.

    Args:
        prompts: `prompt_digest` of each problem's prompt.

    Raises:
        DataError: the log is of another configuration, or a problem was asked by another prompt.
    """
    place = join(output, "log")
    logged: dict[str, dict[int, Level]] = defaultdict(dict)
    for record in journal.replay():
        if record["digest"] != digest:
            raise OtherConfiguration(place, record["digest"], digest)
        level = Level.model_validate(record["level"])
        name = level.problem_id
        require_same_prompt(record.get("prompt"), prompts[name], tokenizer.chat, f"{place}, problem {name}")
        logged[name].setdefault(level.number, level)
    finished: dict[str, list[Level]] = defaultdict(list)
    for problem_id, levels in logged.items():
        finished[problem_id] = [levels[number] for number in sorted(levels)]
    return finished


def _check_steps(tokenizer: Tokenizer, model: str) -> None:
    """Fail where steps do not come back from the tokenizer as they were written: every candidate would be malformed."""
    written = f"{header(1)} 1\n{header(2)} 1"
    read = tokenizer.decode(tokenizer.encode(written))
    if read != written:
        raise DataError(
            f"{model}: the tokenizer cannot write steps: {written!r} comes back as {read!r}; the search needs one that "
            "keeps spaces and newlines"
        )


def _check_prompts_fit(questions: Sequence[Question], context_length: int, source: str) -> None:
    for question in questions:
        if len(question.prompt_ids) >= context_length:
            raise DataError(
                f"{source}: problem {question.problem.id}: its prompt has {len(question.prompt_ids)} tokens and the "
                f"model's context {context_length}; shorten or remove it, or raise server.engine.maxModelLen"
            )


def print_usage(engine: Engine) -> None:
    """Print what the server was asked and how much of it came from its prefix cache."""
    for purpose, usage in sorted(engine.usage.items()):
        cached = f" ({usage.cached_tokens / usage.prompt_tokens:.0%} cached)" if usage.cached_tokens else ""
        print(
            f"search: {purpose}: {usage.requests} requests, {usage.prompt_tokens} prompt tokens{cached}, "
            f"{usage.completion_tokens} sampled",
            file=sys.stderr,
        )
