"""The stage `evaluate`: ask a model every problem once, greedily and zero-shot, and grade what it answers.

Responses are logged as they come, so that a second attempt asks only what is missing; grading starts when all are
there. Paper §4.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from psr_runtime import engine as engines
from psr_runtime.artefacts.checkpoints import fetch_tokenizer
from psr_runtime.artefacts.differences import OtherConfiguration
from psr_runtime.artefacts.journal import Journal
from psr_runtime.config import EvaluateStage
from psr_runtime.config.results import EvaluateResult
from psr_runtime.data.records import Ended, GradedProblem, Prediction
from psr_runtime.engine import Engine, Sampling
from psr_runtime.evaluation.benchmarks import BENCHMARKS
from psr_runtime.evaluation.graders import GRADERS, Grade, grade_all
from psr_runtime.prompts.chat import prompt_digest, require_same_prompt
from psr_runtime.prompts.grammar import split_steps
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.storage import join

PREDICTIONS = "predictions.jsonl"
LOG = "log"
PURPOSE = "evaluate"


@dataclass(frozen=True)
class Question:
    """A problem as it is asked: the ids of its chat prompt."""

    problem: GradedProblem
    prompt_ids: list[int]


@dataclass(frozen=True)
class Response:
    """What the model answered: ids as sampled, EOS among them iff it was sampled, and why they end.

    `length` says that `maxTokens` or the model's context was used up.
    """

    token_ids: list[int]
    ended: Ended


def run(config: EvaluateStage, context: StageContext) -> Outcome:
    """Evaluate one model on one problem file.

    Writes `predictions.jsonl`: a `Prediction` a problem, in the file's order.

    Returns:
        The artefact; its result holds `accuracy` (0 to 1), `correct`, `problems`, `tokens` (sampled ones, EOS
        included), `mean_steps` (steps a response), `mean_step_tokens` (tokens a step), and counts of what was not
        answered or not compared.

    Raises:
        ConfigurationError: a benchmark or a grader that nobody brings.
        DataError: a broken problem file, a prompt that fills the model's context, a log of another configuration.
        Interrupted: asked to stop, or the server did not become ready.
    """
    benchmark = BENCHMARKS.load(config.evaluation.benchmark)()
    grader_of = GRADERS.load(config.evaluation.grader)
    tokenizer = fetch_tokenizer(context.storage, config.model, context.scratch, config.prompts.thinking)
    problems = benchmark.problems(context.storage, config.problems)[: config.evaluation.limit]
    templates = Templates.of(config.prompts)
    prompts = tokenizer.prompts_ids([benchmark.messages(problem, templates) for problem in problems])
    questions = [Question(problem, prompt) for problem, prompt in zip(problems, prompts, strict=True)]
    responses = context.run_async(_ask_missing(config, context, tokenizer, questions))
    texts = [tokenizer.decode(responses[problem.id].token_ids) for problem in problems]

    def on_done(_: Grade) -> None:
        context.progress.advance()
        context.check_stop()

    context.progress.start(len(problems), "answers graded")
    with grader_of(config.evaluation.grading_seconds) as grader:
        answers = [(problem.answer, text) for problem, text in zip(problems, texts, strict=True)]
        grades = grade_all(grader, answers, on_done)
    predictions = [
        Prediction(
            id=problem.id,
            problem=problem.problem,
            gold=problem.answer,
            response=text,
            answer=grade.answer,
            correct=grade.correct,
            tokens=len(responses[problem.id].token_ids),
            steps=len(split_steps(text)),
            ended=responses[problem.id].ended,
        )
        for problem, text, grade in zip(problems, texts, grades, strict=True)
    ]
    folder = context.scratch / "artefact"
    _write(folder / PREDICTIONS, predictions)
    return Outcome(
        folder=folder,
        metadata={
            "model_digest": context.inputs["model.uri"].digest,
            "tokenizer_digest": tokenizer.digest,
            "template_digest": tokenizer.template_digest,
            "frame": tokenizer.chat.frame,
            "prompt_digest": "sha256:" + hashlib.sha256(templates.solve.encode()).hexdigest(),
        },
        result=_result(predictions, grades),
    )


async def _ask_missing(
    config: EvaluateStage, context: StageContext, tokenizer: Tokenizer, questions: Sequence[Question]
) -> dict[str, Response]:
    """Responses by problem id: those in the log, and the model's for the rest."""
    with Journal(context.storage, join(config.output, LOG)) as journal:
        responses = _logged(journal.replay(), config.output, context.digest, tokenizer, questions)
        missing = [question for question in questions if question.problem.id not in responses]
        context.progress.start(len(questions), "problems", done=len(questions) - len(missing))
        if not missing:
            return responses
        async with engines.open_engine(config.server, context.inputs["model.uri"].digest) as engine:
            longest = await engine.context_length()
            for question in questions:
                _check_fits(question, longest, config.problems)
            gate = asyncio.Semaphore(config.evaluation.concurrency)

            async def answer(question: Question) -> None:
                async with gate:
                    response = await _ask(
                        engine,
                        question,
                        min(config.evaluation.max_tokens, longest - len(question.prompt_ids)),
                        tokenizer,
                    )
                await journal.append(
                    {
                        "digest": context.digest,
                        "id": question.problem.id,
                        "prompt": prompt_digest(question.prompt_ids),
                        "ids": response.token_ids,
                        "ended": response.ended,
                    }
                )
                responses[question.problem.id] = response
                context.progress.advance()

            await _all(answer(question) for question in missing)
    return responses


async def _ask(engine: Engine, question: Question, max_tokens: int, tokenizer: Tokenizer) -> Response:
    """One greedy answer."""
    sampling = Sampling(max_tokens=max_tokens, stop_token_ids=tuple(tokenizer.eos_ids))
    (completion,) = await engine.complete(question.prompt_ids, sampling, purpose=PURPOSE, affinity=question.problem.id)
    if completion.finish_reason == "length":
        return Response(completion.token_ids, "length")
    at_eos = bool(completion.token_ids) and completion.token_ids[-1] in tokenizer.eos_ids
    return Response(completion.token_ids, "eos" if at_eos else "stop")


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at the same time; the first error cancels the rest and is raised."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _logged(
    records: Sequence[dict[str, Any]], output: str, digest: str, tokenizer: Tokenizer, questions: Sequence[Question]
) -> dict[str, Response]:
    """Responses of earlier attempts, by problem id. A problem that stands twice keeps its first response.

    Raises:
        DataError: the log is of another configuration, or a problem was asked by another prompt.
    """
    prompts = {question.problem.id: prompt_digest(question.prompt_ids) for question in questions}
    responses: dict[str, Response] = {}
    for record in records:
        if record["digest"] != digest:
            raise OtherConfiguration(join(output, LOG), record["digest"], digest)
        name = record["id"]
        require_same_prompt(record.get("prompt"), prompts[name], tokenizer.chat, f"{join(output, LOG)}, {name}")
        responses.setdefault(name, Response(record["ids"], cast(Ended, record["ended"])))
    return responses


def _check_fits(question: Question, longest: int, source: str) -> None:
    if len(question.prompt_ids) >= longest:
        raise DataError(
            f"{source}: problem {question.problem.id}: its prompt has {len(question.prompt_ids)} tokens and the "
            f"model's context {longest}, so no answer fits; shorten the problem or serve with a larger maxModelLen"
        )


def _result(predictions: Sequence[Prediction], grades: Sequence[Grade]) -> EvaluateResult:
    correct = sum(prediction.correct for prediction in predictions)
    tokens = sum(prediction.tokens for prediction in predictions)
    steps = sum(prediction.steps for prediction in predictions)
    return EvaluateResult(
        accuracy=round(correct / len(predictions), 6),
        correct=correct,
        problems=len(predictions),
        tokens=tokens,
        mean_steps=round(steps / len(predictions), 4),
        mean_step_tokens=round(tokens / steps, 4),
        truncated=sum(prediction.ended == "length" for prediction in predictions),
        no_answer=sum(grade.answer is None and grade.fault is None for grade in grades),
        empty_gold=sum(grade.fault == "EmptyGold" for grade in grades),
        grading_failed=sum(grade.fault in ("Timeout", "Crash") for grade in grades),
    )


def _write(path: Path, predictions: Sequence[Prediction]) -> None:
    path.parent.mkdir(parents=True)
    with open(path, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        file.writelines(prediction.to_line() for prediction in predictions)
