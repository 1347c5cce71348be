"""Planted faults of a run: `psr check` tells each before anything starts, by the contract's code, with what to do."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psr_operator.cli import main
from psr_runtime.check import machine
from tests.check.conftest import Planted

Plant = Callable[[Planted], Any]


def misspelt_evaluation(run: Planted) -> None:
    run.spec["evaluations"][0]["problems"] = "file:///psr/input/tset.jsonl"


def no_such_ift(run: Planted) -> None:
    (run.inputs / "ift.jsonl").unlink()


def no_such_model(run: Planted) -> None:
    run.spec["model"]["uri"] = "file:///psr/input/bsae"


def wrong_field(run: Planted) -> None:
    records = run.lines("problems.jsonl")
    records[4] = {"id": "five", "text": records[4]["problem"]}
    run.write("problems.jsonl", records)


def judgement_without_verdict(run: Planted) -> None:
    records = run.lines("eft.jsonl")
    records[-1]["judgement"] = "A is better"
    run.write("eft.jsonl", records)


def ids_twice(run: Planted) -> None:
    records = run.lines("problems.jsonl")
    records[6]["id"] = records[2]["id"]
    run.write("problems.jsonl", records)


def record_too_long(run: Planted) -> None:
    records = run.lines("ift.jsonl")
    records[201]["steps"] += [f"Step {number}: 1 + 1 = 2" for number in range(4, 30)]
    run.write("ift.jsonl", records)


def prompt_too_long(run: Planted) -> None:
    records = run.lines("test.jsonl")
    records[7]["problem"] += " Buys 3." * 200
    run.write("test.jsonl", records)


def no_template(run: Planted) -> None:
    run.edit("tokenizer_config.json", chat_template=None)


def template_refuses(run: Planted) -> None:
    run.spec["prompts"]["systemMessage"] = "Be brief."
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}<user>"
    run.edit("tokenizer_config.json", chat_template=refusing)


def placeholder_missing(run: Planted) -> None:
    run.spec["prompts"]["solve"] = "Solve it."


def unreadable_tokenizer(run: Planted) -> None:
    (run.inputs / "base" / "tokenizer.json").write_text('{"model": {"type": "New"}}')


def tokenizer_of_a_larger_model(run: Planted) -> None:
    run.edit("config.json", vocab_size=20)


def masked_model(run: Planted) -> None:
    run.edit("config.json", architectures=["BertForMaskedLM"], model_type="bert")


def encoder_and_decoder(run: Planted) -> None:
    run.edit("config.json", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)


def broken_configuration(run: Planted) -> None:
    (run.inputs / "base" / "config.json").write_text("{")


def no_weights(run: Planted) -> None:
    del run.spec["model"]["weights"]


def pickled_weights(run: Planted) -> None:
    del run.spec["model"]["weights"]
    (run.inputs / "base" / "pytorch_model.bin").write_bytes(b"")


def a_shard_of_the_weights_is_gone(run: Planted) -> None:
    del run.spec["model"]["weights"]
    (run.inputs / "base" / "model-00001-of-00002.safetensors").write_bytes(b"")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (run.inputs / "base" / "model.safetensors.index.json").write_text(json.dumps(index))


def too_few_questions(run: Planted) -> None:
    run.spec["iterations"][2]["questions"] = 301


def context_larger_than_the_model_s(run: Planted) -> None:
    run.spec["server"]["engine"]["maxModelLen"] = 1024


def context_too_small_for_judging(run: Planted) -> None:
    run.spec["server"]["engine"]["maxModelLen"] = 64


def steps_longer_than_allowed(run: Planted) -> None:
    run.spec["search"]["maxStepTokens"] = 6


def judgements_longer_than_allowed(run: Planted) -> None:
    run.spec["judge"]["maxTokens"] = 20


def pairs_longer_than_allowed(run: Planted) -> None:
    run.spec["training"]["maxLength"] = 32


def unknown_grader(run: Planted) -> None:
    run.spec["evaluations"][0]["evaluation"]["grader"] = "MathVerfiy"


def gpus_that_are_not_there(run: Planted) -> None:
    run.spec["trainingResources"] = {"gpus": 1}


def model_larger_than_memory(run: Planted) -> None:
    run.edit("config.json", hidden_size=65536, intermediate_size=262144, num_hidden_layers=200)


def storage_below_a_file(run: Planted) -> None:
    run.spec["storage"]["uri"] = "file:///psr/input/ift.jsonl/runs"


def storage_not_writable(run: Planted) -> None:
    run.spec["storage"] = {"uri": "file:///proc/psr"}


def problems_twice(run: Planted) -> None:
    records = run.lines("problems.jsonl")
    for number in range(150):
        records[number] = {"problem": records[number + 200]["problem"].upper()}
    run.write("problems.jsonl", records)


def benchmark_in_the_training_data(run: Planted) -> None:
    tested = run.lines("test.jsonl")
    learned = run.lines("ift.jsonl")
    for number, record in enumerate(tested[:10]):
        learned[number]["problem"] = record["problem"].replace(".", " ;")
    run.write("ift.jsonl", learned)


FAULTS: dict[Plant, tuple[int, str, str]] = {
    misspelt_evaluation: (66, "spec.evaluations[fresh].problems", "did you mean file:///psr/input/test.jsonl"),
    no_such_ift: (66, "spec.sft.ift", "file:///psr/input/ift.jsonl: no such file"),
    no_such_model: (66, "spec.model.uri", "file:///psr/input/bsae: no such model folder"),
    wrong_field: (65, "spec.problems", "problems.jsonl, line 5: problem: Field required"),
    judgement_without_verdict: (65, "spec.sft.eft", "eft.jsonl, line 300: judgement: "),
    ids_twice: (65, "spec.problems", "record 7: id 'search-0002' stands at record 3 already"),
    record_too_long: (65, "spec.sft.ift", "ift.jsonl, record 202: "),
    prompt_too_long: (65, "spec.evaluations[fresh].problems", "test.jsonl, record 8: a prompt of "),
    no_template: (65, "spec.model.uri", "no chat template; set model.chatTemplate"),
    template_refuses: (65, "spec.model.chatTemplate", "no system role"),
    placeholder_missing: (64, "spec.prompts", "{problem} must stand in it exactly once"),
    unreadable_tokenizer: (65, "spec.model.uri", "the tokenizer cannot be read"),
    tokenizer_of_a_larger_model: (65, "spec.model.uri", "ids and the model 20 rows of embeddings"),
    masked_model: (65, "spec.model.uri", "BertForMaskedLM is no causal language model"),
    encoder_and_decoder: (65, "spec.model.uri", "T5ForConditionalGeneration is no causal language model"),
    broken_configuration: (65, "spec.model.uri", "config.json: cannot be read"),
    no_weights: (66, "spec.model.uri", "no *.safetensors"),
    pickled_weights: (66, "spec.model.uri", "only pytorch_model.bin"),
    a_shard_of_the_weights_is_gone: (66, "spec.model.uri", "model-00002-of-00002.safetensors named by"),
    too_few_questions: (65, "spec.iterations", "takes 301 after the first 400, and the file has 700"),
    context_larger_than_the_model_s: (64, "spec.server.engine.maxModelLen", "the model's own context is 512"),
    context_too_small_for_judging: (64, "spec.server.engine.maxModelLen", "64 tokens, yet judge prompts"),
    steps_longer_than_allowed: (64, "spec.search.maxStepTokens", "6 tokens, yet steps of IFT have p50 "),
    judgements_longer_than_allowed: (64, "spec.judge.maxTokens", "20 tokens, yet judgements of EFT have p50 "),
    pairs_longer_than_allowed: (64, "spec.training.maxLength", "32 tokens, yet solutions of IFT have p50 "),
    unknown_grader: (64, "spec.evaluations[fresh].evaluation.grader", "nobody brings 'MathVerfiy'"),
    gpus_that_are_not_there: (64, "spec.trainingResources.gpus", "1 GPUs are asked for, and this machine has 0"),
    model_larger_than_memory: (64, "spec.sft.training", "TB of memory, and this machine has"),
    storage_below_a_file: (66, "spec.storage.uri", "is a file, and a folder is wanted there"),
    storage_not_writable: (66, "spec.storage.uri", "file:///proc"),
    problems_twice: (65, "spec.problems", "150 of 700 problems stand there twice; record 201 is record 1"),
    benchmark_in_the_training_data: (65, "spec.evaluations[fresh].problems", "10 of 40 problems share 13 words"),
}


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def errors(text: str) -> list[dict[str, Any]]:
    """The errors of `psr check --json`."""
    return [item for item in json.loads(text)["SelfRewardRun/demo"]["findings"] if item["severity"] == "error"]


def test_the_demo_itself_is_clean(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(planted.volume.rglob("*"))
    assert planted.check() == 0
    shown = capsys.readouterr().out
    assert shown.endswith("0 errors, 0 warnings\n")
    assert "Qwen2ForCausalLM" in shown
    assert "600 questions in 3 rounds, of 700" in shown
    assert sorted(planted.volume.rglob("*")) == before, "a check leaves nothing behind"


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_told(plant: Plant, planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    plant(planted)
    code, field, message = FAULTS[plant]
    assert planted.check("--json") == code
    told = errors(capsys.readouterr().out)
    at_the_field = [
        item for item in told if item["field"] == field and message in f"{item['message']} {item.get('todo')}"
    ]
    assert at_the_field, told
    assert at_the_field[0]["exitCode"] == code
    assert at_the_field[0].get("todo") or "; " in at_the_field[0]["message"], "it says what to do"
    assert [item for item in told if item["field"] != field] == [] or plant is model_larger_than_memory, told


def test_a_full_disk_is_temporary(
    planted: Planted, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(1_000_000))
    assert planted.check("--json") == 75
    (told,) = errors(capsys.readouterr().out)
    assert told["field"] == "spec.storage.uri"
    assert "1 MB free" in told["message"]
    assert "retention: Last" in told["todo"]


def test_all_faults_are_told_at_once(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is that of the worst: a manifest before data, data before what is missing."""
    misspelt_evaluation(planted)
    assert planted.check() == 66
    wrong_field(planted)
    assert planted.check() == 65
    steps_longer_than_allowed(planted)
    capsys.readouterr()
    assert planted.check() == 64
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("error")] == [
        "spec.search.maxStepTokens",
        "spec.problems",
        "spec.evaluations[fresh].problems",
    ]
    assert shown.endswith("3 errors, 0 warnings\n")


def test_a_few_repeated_problems_are_a_warning_unless_strict(
    planted: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    records = planted.lines("problems.jsonl")
    records[5]["problem"] = records[3]["problem"]
    planted.write("problems.jsonl", records)
    assert planted.check() == 0
    assert "1 of 700 problems stand there twice; record 6 is record 4" in capsys.readouterr().out
    assert planted.check("--strict") == 65


def test_a_cluster_s_devices_are_not_looked_for_here(planted: Planted) -> None:
    planted.spec["trainingResources"] = {"gpus": 1}
    assert planted.check("--cluster") == 0


def test_other_kinds_name_their_own_fields(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    spec = planted.spec
    training = spec["sft"]["training"] | {"maxLength": 16}
    shared = {name: spec[name] for name in ("storage", "model", "prompts")}
    job = {"ift": spec["sft"]["ift"], "training": training, **shared}
    planted.document |= {"kind": "SFTJob", "spec": job}
    assert planted.check() == 65
    assert "more than spec.training.maxLength of 16" in capsys.readouterr().out
    server = {"inline": {"engine": {"maxModelLen": 4096}}}
    evaluation = {"problems": "file:///psr/input/tset.jsonl", "server": server, **shared}
    planted.document |= {"kind": "ModelEvaluation", "spec": evaluation}
    assert planted.check() == 64
    shown = capsys.readouterr().out
    assert "spec.problems " in shown
    assert "spec.server.inline.engine.maxModelLen " in shown


def test_psr_run_checks_first_and_starts_nothing(
    planted: Planted, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    misspelt_evaluation(planted)
    arguments = ["run", "-f", str(planted.manifest), "--mount", f"/psr={planted.volume}"]
    assert main([*arguments, "--workdir", str(tmp_path / "work")]) == 66
    told = capsys.readouterr().err
    assert "did you mean file:///psr/input/test.jsonl" in told
    assert "psr run --no-check starts it all the same" in told
    assert not (tmp_path / "work").exists()


def test_a_storage_at_the_root_of_the_file_system(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest folder that is there is the root itself; nothing is left there."""
    planted.spec["storage"] = {"uri": "file:///psr-is-not-there"}
    before = sorted(Path("/").iterdir())
    planted.check()
    assert sorted(Path("/").iterdir()) == before
    assert "no URI" not in capsys.readouterr().out


def test_a_run_that_was_begun_is_not_checked_again(planted: Planted, tmp_path: Path) -> None:
    from psr_operator.api.manifest import load_manifests
    from psr_operator.local.preflight import not_begun

    objects = load_manifests([planted.manifest])
    place = tmp_path / "work" / "objects" / "SelfRewardRun-demo.json"
    assert not_begun(objects, tmp_path / "work") == objects
    place.parent.mkdir(parents=True)
    for kind, begun in (("Reconciling", True), ("Ready", True), ("Stalled", False)):
        place.write_text(json.dumps({"status": {"conditions": [{"type": kind, "status": "True"}]}}))
        assert not_begun(objects, tmp_path / "work") == ([] if begun else objects), kind
    shutil.rmtree(tmp_path / "work")
