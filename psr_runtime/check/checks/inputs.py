"""Data sets and names: whether what the manifest names is there and reads, and whether there is enough of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from psr_runtime.check.findings import Finding, error, fact, failed
from psr_runtime.check.subject import DataSet, Subject
from psr_runtime.config import EvaluationConfig, JudgeConfig, SearchConfig, StepDPOConfig, TrainingConfig
from psr_runtime.config.plugins import Registry
from psr_runtime.data.records import Pair
from psr_runtime.protocol.errors import ConfigurationError, DataError, InputMissing
from psr_runtime.search.problems import round_problems
from psr_runtime.storage import Storage, join


def names_are_known(subject: Subject) -> Iterator[Finding]:
    """Every implementation that a field names is there."""
    config = subject.config
    named: list[tuple[type[Any], str, str, Any]] = [
        (SearchConfig, "strategy", "search.strategy", config.search),
        (JudgeConfig, "strategy", "judge.strategy", config.judge),
        (TrainingConfig, "strategy", "sft.training.strategy", config.sft),
        (TrainingConfig, "strategy", "training.strategy", config.training),
        (StepDPOConfig, "layout", "training.layout", config.training),
    ]
    for item in config.evaluations:
        field = f"evaluations[{item.name}].evaluation"
        named.append((EvaluationConfig, "benchmark", f"{field}.benchmark", item.evaluation))
        named.append((EvaluationConfig, "grader", f"{field}.grader", item.evaluation))
    for kind, attribute, name, value in named:
        if value is None:
            continue
        names = Registry.of(kind, attribute, name).names()
        wanted = getattr(value, attribute)
        if wanted not in names:
            message = f"nobody brings {wanted!r}; there are {', '.join(names)}"
            todo = "correct the name, or install the package that brings it"
            yield error("names", subject.field(name), message, todo, ConfigurationError)


def data_sets_are_there(subject: Subject) -> Iterator[Finding]:
    """Every data set is there, and every record of it reads."""
    for item in subject.data_sets:
        cause = item.records.cause
        if cause is None:
            yield fact("inputs", item.field, f"{len(item.records.value or ())} records in {item.uri}")
        elif isinstance(cause, InputMissing):
            yield failed("inputs", item.field, cause, _where_else(subject.storage, item))
        elif not isinstance(cause, ConfigurationError):  # `names_are_known` has said that
            yield failed("inputs", item.field, cause)


def rounds_have_questions(subject: Subject) -> Iterator[Finding]:
    """The problem file has enough problems for all rounds, as each search would count them."""
    problems = subject.of("problems")
    if problems is None or not subject.config.rounds:
        return
    for questions in subject.config.rounds:
        try:
            round_problems(problems.records.value or [], questions, subject.config.seed)
        except DataError as cause:
            yield failed("questions", subject.field("iterations"), cause)
            return
    asked = sum(questions.count for questions in subject.config.rounds)
    message = f"{asked} questions in {len(subject.config.rounds)} rounds, of {len(problems.records.value or ())}"
    yield fact("questions", subject.field("iterations"), message)


def pairs_are_of_this_model(subject: Subject) -> Iterator[Finding]:
    """Every pair was made with the tokenizer of the model that is to be trained."""
    item, tokenizer = subject.of("pairs"), subject.tokenizer.value
    if item is None or tokenizer is None:
        return
    for number, pair in enumerate(item.records.value or (), 1):
        if isinstance(pair, Pair) and pair.tokenizer_digest != tokenizer.digest:
            message = f"{item.uri}, record {number}: made with tokenizer {pair.tokenizer_digest}, the model has another"
            yield error("inputs", item.field, message, "train the model that the pairs were sampled from", DataError)
            return


def _where_else(storage: Storage, item: DataSet) -> str:
    """What to do about an input that is not there; on this machine with names that are nearly the same."""
    path = storage.local_path(item.uri)
    names: list[str] = []
    if path is not None and path.parent.is_dir():
        names = difflib.get_close_matches(path.name, [place.name for place in path.parent.iterdir()], n=2)
    if names:
        near = " or ".join(join(item.uri.rpartition("/")[0], name) for name in names)
        return f"correct the URI; did you mean {near}?"
    return "put the file there, or correct the URI, the mount or the credentials"
