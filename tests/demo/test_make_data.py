"""The demo's data: the same bytes for a seed, no problem twice, slips as declared, judgements right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_data as demo
import pytest

from psr_runtime.data.reading import parse_records
from psr_runtime.data.records import EFTRecord, GradedProblem, IFTRecord, SearchProblem
from psr_runtime.prompts import grammar
from psr_runtime.prompts.templates import Templates
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.report.oracles import arithmetic

SUM = re.compile(r"^Step (\d): (\d+) \+ (\d) = (?:(\d+)|\\boxed\{(\d+)\})$")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_step(text: str) -> tuple[int, int, int, int]:
    """Level, the two summands and the result of a step, by its text alone."""
    match = SUM.match(text)
    assert match, text
    level, total, operand, plain, boxed = match.groups()
    assert (boxed is not None) == (level == "3"), text
    return int(level), int(total), int(operand), int(plain or boxed)


def read_problem(text: str) -> list[int]:
    """The four numbers of a problem, by its text alone."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    assert len(numbers) == 4, text
    return numbers


# --- files -------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes_in_another_process_that_has_only_the_standard_library(
    data: Path, tmp_path: Path
) -> None:
    script = Path(demo.__file__)
    command = [sys.executable, "-S", str(script), "--out", str(tmp_path / "again"), "--seed", "0"]
    done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file())
    assert names == sorted(
        ["about.json", "eft.jsonl", "ift.jsonl", "problems.jsonl", "test.jsonl"]
        + [f"base/{name}.json" for name in ("config", "generation_config", "tokenizer", "tokenizer_config")]
    )
    for name in names:
        assert (data / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_another_seed_gives_other_problems_and_the_same_model(data: Path, tmp_path: Path) -> None:
    demo.make_data(tmp_path, 1)
    for name in ("ift", "eft", "problems", "test"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() != (data / f"{name}.jsonl").read_bytes()
    for path in (data / "base").iterdir():
        assert (tmp_path / "base" / path.name).read_bytes() == path.read_bytes()


def test_a_disk_that_fails_leaves_whole_files_and_no_list_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.make_data(tmp_path, 0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    written: list[str] = []
    move = os.replace

    def fail_at_the_third(source: Path, to: Path) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(to.name)
        move(source, to)

    monkeypatch.setattr(os, "replace", fail_at_the_third)
    assert demo.main(["--out", str(tmp_path), "--seed", "0"]) == 1
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == {path: content for path, content in before.items() if path.name != "about.json"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert demo.main(["--out", str(tmp_path / "file" / "data")]) == 1
    assert f"{tmp_path}/file/data: cannot be written" in capsys.readouterr().err


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        demo.main(["--help"])
    assert "make_data.py --out out/demo/data --seed 0" in capsys.readouterr().out


# --- records -----------------------------------------------------------------------------------------------


def test_every_line_is_a_record_that_the_stages_read(data: Path) -> None:
    kinds = {"ift": IFTRecord, "eft": EFTRecord, "problems": SearchProblem, "test": GradedProblem}
    counts = {"ift": 16_000, "eft": 16_000, "problems": 1_000, "test": 1_000}
    for name, kind in kinds.items():
        path = data / f"{name}.jsonl"
        assert len(list(parse_records(path.read_text(), str(path), kind))) == counts[name]


def test_no_four_numbers_occur_twice_within_a_file_or_between_files(data: Path) -> None:
    problems = [
        tuple(read_problem(record["problem"]))
        for name in ("ift", "eft", "problems", "test")
        for record in lines(data / f"{name}.jsonl")
    ]
    assert len(problems) == 34_000
    assert len(set(problems)) == len(problems)


def test_answers_are_right_and_below_one_hundred(data: Path) -> None:
    for name in ("problems", "test"):
        for record in lines(data / f"{name}.jsonl"):
            numbers = read_problem(record["problem"])
            assert int(record["answer"]) == sum(numbers) < 100


def test_more_problems_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="there are only 37632"):
        demo.data_sets(0, ift=37_000, eft=1_000)


def test_solutions_forget_the_carry_as_often_as_declared_and_err_in_no_other_way(data: Path) -> None:
    carries = {False: [0, 0], True: [0, 0]}  # large operand -> [slips, carries]
    right_answers = 0
    for record in lines(data / "ift.jsonl"):
        start, *operands = read_problem(record["problem"])
        expected = start
        for number, (text, operand) in enumerate(zip(record["steps"], operands, strict=True), 1):
            level, total, added, result = read_step(text)
            assert (level, total, added) == (number, expected, operand)
            slipped = result != total + operand
            if total % 10 + operand >= 10:
                assert result in (total + operand, total + operand - 10)
                carries[operand >= 8][0] += slipped
                carries[operand >= 8][1] += 1
            else:
                assert not slipped
            expected = result
        right_answers += expected == start + sum(operands)
    small, large = (slips / total for slips, total in (carries[False], carries[True]))
    assert small == pytest.approx(demo.SLIP, abs=0.02)
    assert large == pytest.approx(demo.SLIP_LARGE, abs=0.02)
    assert right_answers / 16_000 == pytest.approx(0.42, abs=0.03)


def test_every_judgement_is_right(data: Path) -> None:
    both_wrong = wrong_before = later = says_a = 0
    records = lines(data / "eft.jsonl")
    for record in records:
        start, *operands = read_problem(record["problem"])
        total = start
        wrong = 0
        for text in record["steps"]:
            _, summand, operand, result = read_step(text)
            assert (summand, operand) == (total, operands.pop(0))
            wrong += result != summand + operand
            total = result
        a, b = read_step(record["a"]), read_step(record["b"])
        assert a[:3] == b[:3] == (len(record["steps"]) + 1, total, operands[0])
        right = total + operands[0]
        assert a[3] != b[3]
        assert right < 100
        assert grammar.verdict(record["judgement"]) == ("A" if a[3] == right else "B")
        own = "".join(re.findall(r"(\d) vs \d: (?:ok|no)", record["judgement"]))
        theirs = "".join(re.findall(r"\d vs (\d): (?:ok|no)", record["judgement"]))
        marks = re.findall(r"\d vs \d: (ok|no)", record["judgement"])
        assert own == f"{right}{right}"
        assert theirs == f"{a[3]}{b[3]}"
        assert marks == ["ok" if x == y else "no" for x, y in zip(own, theirs, strict=True)]
        both_wrong += right not in (a[3], b[3])
        wrong_before += wrong > 0
        later += len(record["steps"]) > 0
        says_a += "[[A]]" in record["judgement"]
    assert both_wrong / len(records) == pytest.approx(demo.BOTH_WRONG, abs=0.02)
    assert wrong_before / later == pytest.approx(demo.WRONG_BEFORE, abs=0.01)
    assert says_a / len(records) == pytest.approx((1 - demo.BOTH_WRONG) / 2, abs=0.02)


# --- tokens ------------------------------------------------------------------------------------------------


def test_text_becomes_ids_and_the_same_text_again(data: Path, tokenizer: Tokenizer, templates: Templates) -> None:
    texts = [tokenizer.prompt_text(templates.solve_messages(r["problem"])) for r in lines(data / "test.jsonl")]
    texts += ["\n".join(record["steps"]) for record in lines(data / "ift.jsonl")[:2000]]
    for record in lines(data / "eft.jsonl")[:2000]:
        messages = templates.judge_messages(record["problem"], record["steps"], record["a"], record["b"])
        texts += [tokenizer.prompt_text(messages), record["judgement"]]
    unknown = tokenizer.inner.unk_token_id
    for text in texts:
        ids = tokenizer.encode(text)
        assert unknown not in ids, text
        assert tokenizer.inner.decode(ids, skip_special_tokens=False) == text
    assert len(tokenizer.inner) == 61


def test_chat_template_ends_prompts_where_the_assistant_begins(tokenizer: Tokenizer, templates: Templates) -> None:
    problem = "Ann has 85 books. Buys 3. Gets 6. Wins 5. How many?"
    assert tokenizer.prompt_text(templates.solve_messages(problem)) == f"<user>{problem}<assistant>"
    turns = [*templates.solve_messages(problem), {"role": "assistant", "content": "Step 1: 85 + 3 = 88"}]
    whole = tokenizer.inner.apply_chat_template(turns, tokenize=False)
    assert whole == f"<user>{problem}<assistant>Step 1: 85 + 3 = 88<end>"
    assert tokenizer.decode([tokenizer.eos_id]) == ""
    assert tokenizer.inner.decode([tokenizer.eos_id]) == "<end>"


def test_a_step_is_cut_where_the_next_one_begins(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Step 1: 85 + 3 = 88\nStep 2: ")
    assert grammar.cut_at_next_step(ids, tokenizer.decode, 1) == len(ids) - 1
    last = "Step 3: 94 + 5 = \\boxed{99}"
    assert grammar.is_final(tokenizer.decode([*tokenizer.encode(last), tokenizer.eos_id]))
    assert not grammar.is_final("Step 1: 85 + 3 = 88\n")


def test_the_step_oracle_of_the_report_reads_these_steps() -> None:
    assert arithmetic(demo.step(1, 85, 3, 88)) is True
    assert arithmetic(demo.step(2, 88, 6, 84)) is False
    assert arithmetic(demo.step(3, 94, 5, 99)) is True
    assert arithmetic(demo.step(3, 94, 7, 91)) is False


def test_judge_prompts_of_the_search_are_those_of_training(
    data: Path, tokenizer: Tokenizer, templates: Templates
) -> None:
    """Steps that were sampled carry newlines and end tokens; the prompt shows the judge what EFT showed it."""
    records = lines(data / "eft.jsonl")
    for level in (1, 3):
        record = next(r for r in records if len(r["steps"]) == level - 1)
        trained = templates.judge_messages(record["problem"], record["steps"], record["a"], record["b"])
        end = "\n" if level < 3 else tokenizer.inner.eos_token
        sampled = [tokenizer.encode(text + "\n") for text in record["steps"]]
        a, b = (tokenizer.encode(record[slot] + end) for slot in ("a", "b"))
        searched = templates.judge_messages(
            record["problem"], [tokenizer.decode(ids) for ids in sampled], tokenizer.decode(a), tokenizer.decode(b)
        )
        assert tokenizer.prompt_ids(searched) == tokenizer.prompt_ids(trained)
        text = tokenizer.prompt_text(trained)
        steps = "".join(f"\n{step}" for step in record["steps"])
        problem, a_text, b_text = record["problem"], record["a"], record["b"]
        assert text == f"<user>{problem}{steps}\nA: {a_text}\nB: {b_text}\nCheck:<assistant>"


def test_judge_prompts_have_one_length_a_level(data: Path, tokenizer: Tokenizer, templates: Templates) -> None:
    lengths: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}
    for record in lines(data / "eft.jsonl")[:500]:
        messages = templates.judge_messages(record["problem"], record["steps"], record["a"], record["b"])
        lengths[len(record["steps"]) + 1].add(len(tokenizer.prompt_ids(messages)))
    assert lengths == {1: {34}, 2: {43}, 3: {52}}


def test_the_model_is_the_declared_one(data: Path) -> None:
    config = json.loads((data / "base" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["vocab_size"] == len(demo.vocabulary()) == len(set(demo.vocabulary()))
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(data / "base"))
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert sum(parameter.numel() for parameter in model.parameters()) == 459_648
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
