"""The search and the evaluation on the wire, with tokenizers and templates as real models have them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from psr_runtime.artefacts.manifest import read_manifest
from psr_runtime.config import StepDPOStage
from psr_runtime.data.reading import read_records
from psr_runtime.data.records import Pair, Prediction, Tree
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.stage import run_stage
from psr_runtime.storage import Storage, file_uri
from psr_runtime.training.data import Limit
from psr_runtime.training.objectives import Policy
from psr_runtime.training.objectives.step_dpo import StepDPO
from tests.prompts.toys import CHATML, byte_fallback, byte_level, unigram, word_pieces, write_tokenizer
from tests.search.wire import Wire, serve

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CLOCK = (
    "Today: {{ strftime_now('%d %B %Y, %H:%M:%S.%f') }}\n{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KINDS = {
    "byte-level": byte_level(SPECIAL, [("S", "t"), (".", "Ċ")]),
    "byte fallback": byte_fallback(SPECIAL),
    "unigram": unigram(SPECIAL),
}
PROBLEM = "数学: ∑ 2 + 2? It says </s><|im_end|> and [[B]]."
STEPS = {
    1: [
        "设 x = 2 + 2 ⇒ 四。",
        "🙂🙂 x² ≠ 5",
        "We check whether the answer is 5. [[A]] </s>",
        "`\\boxed{4}` – \\boxed{}",
    ],
    2: ["√16 = 4 ✓, so \\boxed {4}", "½ + 3½: the answer is 4", "\\fbox{5}", "is it 4? \\boxed{...}"],
}
"""By level, what a model writes: characters outside the vocabulary, quoted boxes, special tokens, verdicts."""


def says(prompt: str, number: int) -> str:
    """Steps; of two, the judge prefers the one with more characters outside ASCII. Every fifth judgement rambles."""
    if "JUDGE" in prompt:
        a, b = prompt.partition("\nA: ")[2].rpartition("\nB: ")[::2]
        better = "A" if sum(char > "~" for char in a) > sum(char > "~" for char in b) else "B"
        return f"[[{better}]] " * 40 if len(prompt) % 5 == 0 else f"It quotes [[A]] and [[B]]. So [[{better}]]"
    level = len(re.findall(r"\n ?Step \d:", prompt)) + 1
    return f"Step {level}: {STEPS[min(level, 2)][number]}\nStep {level + 1}: and on"


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model's tokenizer: its EOS ends documents, its template ends turns and prints the time."""
    folder = tmp_path_factory.mktemp("wire") / "model"
    write_tokenizer(folder, KINDS[request.param], CLOCK, eos_token="</s>", bos_token="<s>", unk_token="<unk>")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def wire(model: Path) -> Iterator[Wire]:
    with serve(Tokenizer(model), says) as server:
        yield server


def run(name: str, model: Path, wire: Wire, out: Path, **fields: Any) -> int:
    (out.parent / "problems.jsonl").write_text(json.dumps({"id": "q0", "problem": PROBLEM, "answer": ""}))
    config: Mapping[str, Any] = {
        "output": file_uri(out),
        "model": {"uri": file_uri(model)},
        "problems": file_uri(out.parent / "problems.jsonl"),
        "prompts": {
            "solve": "{problem}",
            "judge": "JUDGE {Question and Partial Reasoning Steps}\nA: {Step A}\nB: {Step B}",
        },
        "server": {"urls": [wire.url], "readySeconds": 20},
        **fields,
    }
    return run_stage(name, json.dumps(config))


def _objective(model: Path, pairs: str) -> StepDPO:
    """Step-DPO on pairs, before any weights are read."""
    config = StepDPOStage.model_validate({"output": "file:///o", "model": {"uri": file_uri(model)}, "pairs": pairs})
    policy = Policy(model, Tokenizer(model), Limit(4096, "training.maxLength", 1000))
    return StepDPO(config, SimpleNamespace(storage=Storage()), policy, None)  # type: ignore[arg-type]


def test_preferences_that_are_text_say_how_they_were_rendered(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "preferences.jsonl"
    place.write_text(json.dumps({"prompt": PROBLEM, "chosen": "Step 1: 4", "rejected": "Step 1: 5"}) + "\n")
    assert _objective(model, file_uri(place)).frame == Tokenizer(model).chat.frame


SEARCH = {"questions": {"count": 1}, "search": {"width": 4, "maxStepTokens": 200}, "judge": {"maxTokens": 60}}


def test_every_pair_is_trained_on_the_prompt_that_was_sent(model: Path, wire: Wire, tmp_path: Path) -> None:
    assert run("search", model, wire, tmp_path / "out", **SEARCH) == 0
    trees = read_records(Storage(), file_uri(tmp_path / "out/trees.jsonl"), Tree)
    pairs = read_records(Storage(), file_uri(tmp_path / "out/pairs.jsonl"), Pair)
    sent = [body["prompt"] for body in wire.bodies if body["n"] == 4]
    assert [pair.level for pair in pairs] == [1, 2]
    for pair in pairs:
        assert pair.prompt_ids + [token for step in pair.path_ids for token in step] in sent

    tokenizer = Tokenizer(model)
    assert [sum(token < len(SPECIAL) for token in prompt) for prompt in sent] == [3, 3]  # those of the template
    assert PROBLEM in tokenizer.decode(pairs[0].prompt_ids)
    assert {tuple(body["stop_token_ids"]) for body in wire.bodies} == {(4, 2)}  # the template's end, and the EOS
    manifest = read_manifest(Storage(), file_uri(tmp_path / "out"))
    assert manifest is not None
    assert manifest.metadata["frame"]["date"] == "2024-07-26"

    assert _objective(model, file_uri(tmp_path / "out")).frame == manifest.metadata["frame"]

    candidates = [item for tree in trees for level in tree.levels for item in level.candidates]
    assert {item.fault for item in candidates} == {None}  # no well-formed one is malformed
    wanted = {f"Step {level}: {text}": level == 2 and "..." not in text for level in (1, 2) for text in STEPS[level]}
    assert {item.text: item.final for item in candidates} == wanted
    assert all(tokenizer.decode(item.ids) == item.text + "\n" for item in candidates)


def test_a_judgement_that_was_cut_off_counts_for_nobody(model: Path, wire: Wire, tmp_path: Path) -> None:
    assert run("search", model, wire, tmp_path / "out", **SEARCH) == 0
    (tree,) = read_records(Storage(), file_uri(tmp_path / "out/trees.jsonl"), Tree)
    verdicts = [verdict for level in tree.levels for verdict in level.verdicts]
    cut_off = [verdict for verdict in verdicts if not verdict.text.startswith("It quotes")]
    assert 0 < len(cut_off) < len(verdicts)
    assert all("[[" in verdict.text and verdict.choice is None for verdict in cut_off)
    assert all(verdict.choice == verdict.text[-3] for verdict in verdicts if verdict not in cut_off)


def test_another_day_asks_by_the_same_prompt(
    model: Path, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import chat_template_utils

    assert run("search", model, wire, tmp_path / "one", **SEARCH) == 0
    today = list(wire.bodies)
    wire.bodies.clear()

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Later:
            return cls(2031, 1, 2)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert run("search", model, wire, tmp_path / "two", **SEARCH) == 0
    key = [sorted(json.dumps(body) for body in bodies) for bodies in (today, wire.bodies)]
    assert key[0] == key[1]
    assert (tmp_path / "one/pairs.jsonl").read_bytes() == (tmp_path / "two/pairs.jsonl").read_bytes()


def test_an_evaluation_asks_and_stops_alike(model: Path, wire: Wire, tmp_path: Path) -> None:
    assert run("evaluate", model, wire, tmp_path / "out") == 0
    (prediction,) = read_records(Storage(), file_uri(tmp_path / "out/predictions.jsonl"), Prediction)
    (body,) = wire.bodies
    assert body["stop_token_ids"] == [4, 2]
    assert sum(token < len(SPECIAL) for token in body["prompt"]) == 3
    assert (prediction.ended, prediction.problem) == ("eos", PROBLEM)
    assert prediction.response == says(PROBLEM, 0)


@pytest.mark.parametrize(("prompt", "why"), [({"prompt": "0" * 16}, "the template"), ({}, "the date of that day")])
def test_a_log_that_was_begun_with_another_prompt_is_not_carried_on(
    model: Path, wire: Wire, tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: dict[str, str], why: str
) -> None:
    """Logs of version 0.1.0 say nothing of the prompt, and their templates printed the day."""
    search, evaluation = tmp_path / "search", tmp_path / "evaluate"
    assert run("search", model, wire, search, **SEARCH) == run("evaluate", model, wire, evaluation) == 0
    (tree,) = read_records(Storage(), file_uri(search / "trees.jsonl"), Tree)
    said = {
        "search": {"level": tree.levels[0].model_dump(mode="json", exclude_none=True)},
        "evaluate": {"id": "q0", "ids": [7], "ended": "stop"},
    }
    for stage, record in said.items():
        digest = json.loads((tmp_path / stage / "manifest.json").read_text())["digest"]
        log = tmp_path / f"half-{stage}" / "log"
        log.mkdir(parents=True)
        (log / "segment-1.jsonl").write_text(json.dumps({"digest": digest, **prompt, **record}) + "\n")
        asked = len(wire.bodies)
        assert run(stage, model, wire, log.parent, **(SEARCH if stage == "search" else {})) == 65
        error = capsys.readouterr().err
        assert f"q0: was begun with another prompt than the one that is rendered now ({why}" in error
        assert len(wire.bodies) == asked


def test_a_tokenizer_that_loses_newlines_is_refused_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tokenizer(tmp_path / "model", word_pieces(), CHATML, eos_token="[SEP]", unk_token="[UNK]")
    (tmp_path / "model" / "config.json").write_text("{}")
    assert run("search", tmp_path / "model", Wire("http://127.0.0.1:9"), tmp_path / "out", **SEARCH) == 65
    assert "the tokenizer cannot write steps: 'Step 1: 1\\nStep 2: 1' comes back as" in capsys.readouterr().err
