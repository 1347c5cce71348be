"""What checks look at: the configuration, and what it names, loaded once and only when a check asks for it.

What cannot be loaded is one error, told by one check; every other check sees None and says nothing more about it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from psr_runtime.artefacts.checkpoints import fetch_settings
from psr_runtime.check.machine import Machine
from psr_runtime.check.sizes import Shape, shape_of
from psr_runtime.config import CheckedEvaluation, CheckStage
from psr_runtime.data.reading import read_pairs, read_records, with_ids
from psr_runtime.data.records import EFTRecord, IFTRecord, Preference, SearchProblem
from psr_runtime.data.tokenised import PairEncoder
from psr_runtime.evaluation.benchmarks import BENCHMARKS
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError, StageError
from psr_runtime.storage import Storage

T = TypeVar("T")

SAMPLED = 256
"""Records of a data set whose lengths in tokens are measured, evenly over the file."""
LONGEST = 32
"""Besides them, those with the most characters: the longest in tokens is among them."""


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A value, or why there is none. Neither: the configuration names nothing."""

    value: T | None = None
    cause: StageError | None = None

    @classmethod
    def by(cls, load: Callable[[], T]) -> Loaded[T]:
        try:
            return cls(load())
        except StageError as error:
            return cls(cause=error)


@dataclass(frozen=True)
class DataSet:
    """One data set of the configuration.

    Attributes:
        role: `problems`, `ift`, `eft`, `pairs` or `evaluation`.
        field: that names it in the manifest.
        name: of the evaluation; else the role.
    """

    role: str
    field: str
    uri: str
    name: str
    records: Loaded[list[Any]]
    evaluation: CheckedEvaluation | None = None

    @property
    def texts(self) -> list[str]:
        """The problem of each record; none where they cannot be read."""
        return [item.problem for item in self.records.value or ()] if self.role != "pairs" else []


@dataclass(frozen=True)
class Lengths:
    """Lengths of records in tokens.

    Attributes:
        even: prompt and response of an even sample; `longest` are further ones, with the most characters.
        numbers: of the record behind each, from 1; first those of `even`.
        count: records of the whole data set.
    """

    even: Sequence[tuple[int, int]]
    longest: Sequence[tuple[int, int]]
    numbers: Sequence[int]
    count: int

    @property
    def sums(self) -> list[int]:
        """Prompt and response together, in the order of `numbers`."""
        return [sum(pair) for pair in (*self.even, *self.longest)]


class Subject:
    """A configuration with all that it names.

    Args:
        scratch: folder for what has to be fetched.
        machine: where the work will be done; None where that is not here.
    """

    def __init__(self, config: CheckStage, storage: Storage, scratch: Path, machine: Machine | None) -> None:
        self.config = config
        self.storage = storage
        self.scratch = scratch
        self.machine = machine

    def field(self, name: str) -> str:
        """What a field of a run is called in this manifest, with `spec.` before it."""
        for ours, theirs in sorted(self.config.names.items(), key=lambda item: -len(item[0])):
            if name == ours or name.startswith((f"{ours}.", f"{ours}[")):
                return f"spec.{theirs}{name[len(ours) :]}".replace("..", ".")
        return f"spec.{name}"

    # --- the model ---------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Loaded[Path]:
        """Folder with the model's configuration and tokenizer."""
        model = self.config.model
        if model is None:
            return Loaded()
        return Loaded.by(lambda: fetch_settings(self.storage, model, self.scratch))

    @cached_property
    def model_config(self) -> Loaded[dict[str, Any]]:
        """`config.json`; without a language model's part, that part comes first."""
        folder = self.settings.value
        return Loaded() if folder is None else Loaded.by(lambda: _read_config(folder))

    @cached_property
    def tokenizer(self) -> Loaded[Tokenizer]:
        folder, model = self.settings.value, self.config.model
        if folder is None or model is None:
            return Loaded()
        return Loaded.by(lambda: _tokenizer(folder, model.chat_template, self.config.prompts.thinking))

    @cached_property
    def templates(self) -> Loaded[Templates]:
        return Loaded.by(lambda: Templates.of(self.config.prompts))

    @cached_property
    def shape(self) -> Shape | None:
        """Sizes of the model by its configuration; None where that does not say enough."""
        config = self.model_config.value
        return shape_of(config) if config is not None else None

    @property
    def model_context(self) -> int | None:
        """Longest sequence that the model is made for, in tokens."""
        length = (self.model_config.value or {}).get("max_position_embeddings")
        return int(length) if isinstance(length, int) else None

    @property
    def context(self) -> int | None:
        """Longest sequence that the server takes, in tokens."""
        engine = self.config.engine
        return engine.max_model_len if engine is not None and engine.max_model_len else self.model_context

    # --- data --------------------------------------------------------------------------------------------------

    @cached_property
    def data_sets(self) -> list[DataSet]:
        """Every data set that the configuration names."""
        config, storage = self.config, self.storage
        loaders: list[tuple[str, str, str | None, Callable[[str], list[Any]]]] = [
            ("problems", "problems", config.problems, partial(_problems, storage)),
            ("ift", "sft.ift", config.ift, partial(_records, storage, IFTRecord)),
            ("eft", "sft.eft", config.eft, partial(_records, storage, EFTRecord)),
            ("pairs", "pairs", config.pairs, partial(_pairs, storage)),
        ]
        sets = [
            DataSet(role, self.field(name), uri, role, Loaded.by(partial(load, uri)))
            for role, name, uri, load in loaders
            if uri is not None
        ]
        for item in config.evaluations:
            field = self.field(f"evaluations[{item.name}].problems")
            graded = Loaded.by(partial(_graded, storage, item))
            sets.append(DataSet("evaluation", field, item.problems, item.name, graded, item))
        return sets

    def of(self, role: str) -> DataSet | None:
        """The data set of a role, where it is named and can be read."""
        return next((item for item in self.data_sets if item.role == role and item.records.value), None)

    @cached_property
    def lengths(self) -> dict[str, Lengths]:
        """Lengths in tokens by the name of the data set, for those that can be read."""
        tokenizer, templates = self.tokenizer.value, self.templates.value
        if tokenizer is None or templates is None:
            return {}
        measured = {}
        for item in self.data_sets:
            if not item.records.value:
                continue
            try:
                measured[item.name] = _lengths(item, tokenizer, templates)
            except DataError:
                return {}  # the template refuses these messages: the check of the model says so
        return measured


def _problems(storage: Storage, uri: str) -> list[Any]:
    try:
        return with_ids(read_records(storage, uri, SearchProblem))
    except DataError as error:
        raise error if uri in str(error) else DataError(f"{uri}: {error}") from error


def _records(storage: Storage, kind: type[IFTRecord] | type[EFTRecord], uri: str) -> list[Any]:
    return list(read_records(storage, uri, kind))


def _pairs(storage: Storage, uri: str) -> list[Any]:
    return list(read_pairs(storage, uri))


def _graded(storage: Storage, item: CheckedEvaluation) -> list[Any]:
    problems = list(BENCHMARKS.load(item.evaluation.benchmark)().problems(storage, item.problems))
    return problems[: item.evaluation.limit]


def _read_config(folder: Path) -> dict[str, Any]:
    place = folder / "config.json"
    try:
        document = json.loads(place.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no config.json; this is no Hugging Face model folder") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: cannot be read ({error})") from error
    if not isinstance(document, dict):
        raise DataError(f"{place}: no JSON object")
    text = document.get("text_config")
    return document | text if isinstance(text, dict) else document


def _tokenizer(folder: Path, chat_template: str | None, thinking: bool | None) -> Tokenizer:
    try:
        return Tokenizer(folder, chat_template, thinking)
    except StageError:
        raise
    except Exception as error:  # the library raises a plain Exception where tokenizer.json is broken
        raise DataError(f"{folder}: the tokenizer cannot be read ({error})") from error


def _lengths(item: DataSet, tokenizer: Tokenizer, templates: Templates) -> Lengths:
    records = item.records.value or []
    step = max(1, len(records) / SAMPLED)
    even = [int(number * step) for number in range(min(SAMPLED, len(records)))]
    by_size = sorted(range(len(records)), key=lambda number: -_characters(item.role, records[number]))
    longest = [number for number in by_size[:LONGEST] if number not in set(even)]
    pairs = [_tokens(item, records[number], tokenizer, templates) for number in (*even, *longest)]
    numbers = [number + 1 for number in (*even, *longest)]
    return Lengths(pairs[: len(even)], pairs[len(even) :], numbers, len(records))


def _characters(role: str, record: Any) -> int:
    if role == "ift":
        return len(record.problem) + sum(map(len, record.steps))
    if role == "eft":
        texts = (record.problem, *record.steps, record.a, record.b, record.judgement)
        return sum(map(len, texts))
    if isinstance(record, Preference):
        return sum(map(len, (record.problem, *record.steps, record.chosen, record.rejected)))
    if role == "pairs":
        return len(record.prompt_ids) + sum(map(len, record.path_ids)) + len(record.chosen_ids)
    return len(record.problem)


def _tokens(item: DataSet, record: Any, tokenizer: Tokenizer, templates: Templates) -> tuple[int, int]:
    """Tokens of prompt and response, the end of the turn included. Problems have no response."""
    if item.role == "pairs":
        if isinstance(record, Preference):
            record = PairEncoder(tokenizer, templates).pair(record, 1)
        before = len(record.prompt_ids) + sum(map(len, record.path_ids))
        return before, max(len(record.chosen_ids), len(record.rejected_ids))
    if item.role == "eft":
        messages = templates.judge_messages(record.problem, record.steps, record.a, record.b)
        return len(tokenizer.prompt_ids(messages)), len(tokenizer.encode(record.judgement)) + 1
    if item.evaluation is not None:
        messages = BENCHMARKS.load(item.evaluation.evaluation.benchmark)().messages(record, templates)
        return len(tokenizer.prompt_ids(messages)), 0
    prompt = len(tokenizer.prompt_ids(templates.solve_messages(record.problem)))
    if item.role == "ift":
        solution = "\n".join(step.rstrip() for step in record.steps)
        return prompt, len(tokenizer.encode(solution)) + 1
    return prompt, 0
