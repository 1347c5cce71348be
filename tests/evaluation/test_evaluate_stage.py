"""The stage `evaluate` with a stand-in for the server: what it asks, what it keeps, what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from psr_runtime import engine as engines
from psr_runtime.artefacts.manifest import Manifest, read_manifest
from psr_runtime.config import Endpoint
from psr_runtime.engine import Completion, Sampling, Usage
from psr_runtime.stage import run_stage
from psr_runtime.storage import Storage, file_uri

CHARACTERS = ["<eos>", "\n", *map(chr, range(32, 127))]
EOS = 0
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}|"

PROBLEMS = [
    {"problem": "1 + 2", "answer": "3"},
    {"id": "second", "question": "2 + 2", "answer": "Two and two. #### 4"},
    {"problem": "1 / 2", "answer": "1/2"},
    {"problem": "how?", "answer": ""},
]
ANSWERS = {
    "1 + 2|": "Step 1: 1 + 2 = 3\nStep 2: \\boxed{3}",
    "2 + 2|": "Step 1: \\boxed{5}",
    "1 / 2|": "Step 1: \\boxed{0.5}",
    "how?|": "Step 1: hm",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of single characters; evaluation needs nothing else of a model."""
    folder = tmp_path_factory.mktemp("model")
    words = Tokenizer(models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"<eos>|[\s\S]"), "isolated")
    words.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", chat_template=TEMPLATE).save_pretrained(folder)
    return folder


class Scripted:
    """An engine that knows its answers by heart and writes down what it was asked."""

    def __init__(self, context: int = 200, before: Callable[[str], None] = lambda _: None) -> None:
        self.usage: dict[str, Usage] = {}
        self.asked: list[str] = []
        self.samplings: list[Sampling] = []
        self._context = context
        self._before = before

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, *, purpose: str, affinity: str
    ) -> list[Completion]:
        prompt = "".join(CHARACTERS[i] for i in prompt_ids)
        self._before(prompt)
        await asyncio.sleep(0)
        self.asked.append(prompt)
        self.samplings.append(sampling)
        ids = [CHARACTERS.index(c) for c in ANSWERS[prompt]] + [EOS]
        if len(ids) > sampling.max_tokens:
            return [Completion(ids[: sampling.max_tokens], "length")]
        return [Completion(ids, "stop")]

    async def context_length(self) -> int:
        return self._context

    async def __aenter__(self) -> Scripted:
        return self

    async def __aexit__(self, *_: object) -> None: ...


@pytest.fixture
def evaluate(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the stage with an engine; returns exit code and what it printed, result or error."""

    def run(
        engine: Scripted, problems: list[dict[str, Any]] = PROBLEMS, out: str = "out", **evaluation: Any
    ) -> tuple[int, str]:
        def open_engine(endpoint: Endpoint, digest: str) -> Scripted:
            assert digest.startswith("sha256:")
            return engine

        monkeypatch.setattr(engines, "open_engine", open_engine)
        file = tmp_path / "problems.jsonl"
        file.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
        config = {
            "output": file_uri(tmp_path / out),
            "model": {"uri": file_uri(model)},
            "problems": file_uri(file),
            "prompts": {"solve": "{problem}"},
            "evaluation": {"maxTokens": 60, "concurrency": 2, **evaluation},
            "server": {"urls": ["http://127.0.0.1:9"]},
        }
        code = run_stage("evaluate", json.dumps(config))
        printed = capsys.readouterr()
        return code, printed.out if code == 0 else printed.err.strip().splitlines()[-1]

    return run


def manifest(folder: Path) -> Manifest:
    published = read_manifest(Storage(), file_uri(folder))
    assert published is not None
    return published


def test_every_problem_is_asked_once_and_its_answer_graded(
    evaluate: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    engine = Scripted()

    code, printed = evaluate(engine)

    assert code == 0
    result = json.loads(printed)
    tokens = [len(text) + 1 for text in ANSWERS.values()]
    assert {key: result[key] for key in ("accuracy", "correct", "problems", "tokens")} == {
        "accuracy": 0.5,
        "correct": 2,
        "problems": 4,
        "tokens": sum(tokens),
    }
    assert result["mean_steps"] == 5 / 4
    assert result["mean_step_tokens"] == round(sum(tokens) / 5, 4)
    assert (result["truncated"], result["empty_gold"], result["no_answer"]) == (0, 1, 0)
    assert sorted(engine.asked) == sorted(ANSWERS)
    assert {(s.n, s.temperature, s.max_tokens, s.stop_token_ids) for s in engine.samplings} == {(1, 0.0, 60, (EOS,))}
    predictions = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [(p["id"], p["gold"], p.get("answer"), p["correct"], p["steps"], p["ended"]) for p in predictions] == [
        ("p1", "3", "3", True, 2, "eos"),
        ("second", "4", "5", False, 1, "eos"),
        ("p3", "1/2", "0.5", True, 1, "eos"),
        ("p4", "", None, False, 1, "eos"),
    ]
    assert [p["response"] for p in predictions] == list(ANSWERS.values())
    assert not (tmp_path / "out/log").exists()


def test_equal_answers_make_equal_bytes(evaluate: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    assert evaluate(Scripted(), out="a")[0] == 0
    assert evaluate(Scripted(), out="b", concurrency=1)[0] == 0

    first, second = (manifest(tmp_path / name) for name in ("a", "b"))
    assert (tmp_path / "a/predictions.jsonl").read_bytes() == (tmp_path / "b/predictions.jsonl").read_bytes()
    assert first.digest == second.digest
    assert (first.result, first.metadata, first.files) == (second.result, second.metadata, second.files)


def test_limit_takes_the_first_problems(evaluate: Callable[..., tuple[int, str]]) -> None:
    engine = Scripted()

    assert evaluate(engine, limit=2)[0] == 0

    assert sorted(engine.asked) == ["1 + 2|", "2 + 2|"]


def test_an_answer_that_reaches_max_tokens_or_the_context_is_marked(
    evaluate: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    engine = Scripted(context=22)  # the prompt has 6 tokens, which leaves 16

    code, printed = evaluate(engine, PROBLEMS[:1])

    assert code == 0
    assert engine.samplings[0].max_tokens == 16
    (prediction,) = map(json.loads, (tmp_path / "out/predictions.jsonl").read_text().splitlines())
    assert (prediction["ended"], prediction["tokens"]) == ("length", 16)
    assert json.loads(printed)["truncated"] == 1


def test_a_prompt_beyond_the_context_names_the_problem(evaluate: Callable[..., tuple[int, str]]) -> None:
    engine = Scripted(context=6)

    code, message = evaluate(engine, [PROBLEMS[3], PROBLEMS[1]])

    assert code == 65
    assert "problem second: its prompt has 6 tokens and the model's context 6" in message
    assert engine.asked == []


def test_a_broken_line_is_named(evaluate: Callable[..., tuple[int, str]]) -> None:
    code, message = evaluate(Scripted(), [PROBLEMS[0], {"problem": "no answer"}])

    assert code == 65
    assert "problems.jsonl, line 2: answer" in message


def test_a_second_attempt_asks_only_what_is_missing(evaluate: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    def die(prompt: str) -> None:
        if prompt == "1 / 2|":
            raise OSError("the machine is gone")

    first, second = Scripted(before=die), Scripted()
    assert evaluate(first, concurrency=1)[0] == 1
    assert "1 / 2|" not in first.asked

    code, _ = evaluate(second, concurrency=1)

    assert code == 0
    logged = set(ANSWERS) - set(second.asked)
    assert logged
    assert logged <= set(first.asked)
    assert sorted([*second.asked, *logged]) == sorted(ANSWERS)
    assert evaluate(Scripted(), out="undisturbed", concurrency=1)[0] == 0
    assert manifest(tmp_path / "out").files == manifest(tmp_path / "undisturbed").files


def test_sigterm_ends_it_with_75_and_the_next_call_goes_on(evaluate: Callable[..., tuple[int, str]]) -> None:
    def terminate(prompt: str) -> None:
        if prompt == "how?|":
            os.kill(os.getpid(), signal.SIGTERM)

    code, message = evaluate(Scripted(before=terminate), concurrency=1)
    assert code == 75
    assert "run it again" in message

    again = Scripted()
    assert evaluate(again, concurrency=1)[0] == 0
    assert set(again.asked) <= {"how?|"}


def test_half_done_work_of_another_configuration_is_refused(
    evaluate: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    def die(prompt: str) -> None:
        if prompt == "2 + 2|":
            raise OSError("the machine is gone")

    assert evaluate(Scripted(before=die), concurrency=1)[0] == 1
    before = sorted(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    engine = Scripted()

    code, message = evaluate(engine, concurrency=1, maxTokens=59)

    assert code == 65
    assert "another configuration" in message
    assert engine.asked == []
    assert sorted(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()) == before
