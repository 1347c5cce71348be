"""Input that is wrong, through `psr run` as a process: the contract's exit code, and a message that names the place."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.s3_server import S3Server, start_s3
from psr_runtime.artefacts.publishing import publish
from psr_runtime.storage import Storage, file_uri
from tests.local.command import StandIn, manifest, psr, write

Fields = dict[str, Any]


def ends(tmp_path: Path, stand_in: StandIn, *objects: Fields, **environment: str) -> tuple[int, str]:
    """`psr run` on objects, unchecked so that the stages meet the fault: its exit code, and stderr."""
    ended = psr(
        *("run", "--no-check", "-f", write(tmp_path / "run.yaml", *objects), "--workdir", tmp_path / "work"),
        environment=stand_in.environment | environment,
    )
    assert "is stalled" in ended.stderr, ended.stdout + ended.stderr
    return ended.returncode, ended.stderr


def evaluation(common: Fields, problems: Path, **fields: Any) -> Fields:
    return manifest("ModelEvaluation", "test", **common, problems=file_uri(problems), server={"inline": {}}) | fields


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be spoilt."""
    return Path(shutil.copytree(model, tmp_path / "copy"))


def test_a_missing_model(common: Fields, problems: Path, stand_in: StandIn, tmp_path: Path) -> None:
    """Whether a server or a stage looks for it first."""
    common["model"] = {"uri": "file:///nowhere/model"}
    code, message = ends(tmp_path, stand_in, evaluation(common, problems))
    assert code == 66
    assert "InputMissing" in message
    assert "file:///nowhere/model: no config.json" in message

    job = manifest("StepDPOJob", "train", **common, pairs=file_uri(problems))
    code, message = ends(tmp_path, stand_in, job)
    assert code == 66
    assert "file:///nowhere/model: nothing is there; check the URI" in message


def test_a_truncated_model(common: Fields, copy: Path, problems: Path, stand_in: StandIn, tmp_path: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    common["model"] = {"uri": file_uri(copy)}
    code, message = ends(tmp_path, stand_in, evaluation(common, problems))
    assert code == 65
    assert f"{weights}: the weights cannot be read" in message
    assert "truncated or foreign" in message


def test_a_checkpoint_that_does_not_fit_its_manifest(
    common: Fields, model: Path, problems: Path, stand_in: StandIn, tmp_path: Path
) -> None:
    uri = file_uri(tmp_path / "m1")
    folder = tmp_path / "made"
    shutil.copytree(model, folder / "serving")
    publish(
        Storage(),
        uri,
        folder,
        stage="sft",
        schema_version=1,
        digest="sha256:" + "0" * 64,
        inputs={},
        configuration={},
        versions={},
        metadata={"layout": {"training": "serving", "serving": "serving"}},
        result={},
    )
    weights = tmp_path / "m1" / "serving" / "model.safetensors"
    spoilt = bytearray(weights.read_bytes())
    spoilt[-1] ^= 1
    weights.unlink()
    weights.write_bytes(spoilt)
    common["model"] = {"uri": uri}
    code, message = ends(tmp_path, stand_in, evaluation(common, problems))
    assert code == 65
    assert f"{uri}/serving/model.safetensors: composite_blake3 " in message
    assert "the file was changed" in message


def test_a_tokenizer_without_chat_template(
    common: Fields, copy: Path, problems: Path, stand_in: StandIn, tmp_path: Path
) -> None:
    (copy / "chat_template.jinja").unlink()
    common["model"] = {"uri": file_uri(copy)}
    code, message = ends(tmp_path, stand_in, evaluation(common, problems))
    assert code == 65
    assert f"{copy}: the tokenizer has no chat template; set model.chatTemplate" in message


def test_a_port_in_use(common: Fields, problems: Path, stand_in: StandIn, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = manifest("PolicyServer", "server", model=common["model"], port=port)
        work = evaluation(common, problems)
        work["spec"]["server"] = {"ref": "server"}
        code, message = ends(tmp_path, stand_in, server, work)
    assert code == 64
    assert "PolicyServer/server is stalled: ConfigurationError" in message
    assert f"port {port} on 127.0.0.1 " in message
    assert "stop what uses it or choose another port" in message
    assert "ModelEvaluation/test is not finished; run it again" in message


def test_problems_that_are_wrong_or_too_few(common: Fields, problems: Path, stand_in: StandIn, tmp_path: Path) -> None:
    """Four objects ask one server; each names what is wrong with its own file."""
    broken, no_answer, long = (tmp_path / f"{name}.jsonl" for name in ("broken", "no-answer", "long"))
    good = problems.read_text()
    broken.write_text(good + '{"problem": "How much\n')
    no_answer.write_text(good + '{"problem": "How much?"}\n')
    long.write_text(good + json.dumps({"id": "big", "problem": "How much? " * 400, "answer": "1"}) + "\n")
    server = {"ref": "server"}
    code, message = ends(
        tmp_path,
        stand_in,
        manifest("PolicyServer", "server", model=common["model"], engine={"maxModelLen": 1024}),
        *(
            manifest("ModelEvaluation", path.stem, **common, problems=file_uri(path), server=server)
            for path in (broken, no_answer, long)
        ),
        manifest(
            *("PreferenceGeneration", "few"),
            **common,
            problems=file_uri(problems),
            questions={"offset": 3, "count": 2},
            server=server,
        ),
    )
    assert code == 65
    messages = {line.split(" is stalled: ")[0]: line for line in message.splitlines()}
    assert f"{file_uri(broken)}, line 5: " in messages["ModelEvaluation/broken"]
    assert "Invalid JSON" in messages["ModelEvaluation/broken"]
    assert f"{file_uri(no_answer)}, line 5: answer: Field required" in messages["ModelEvaluation/no-answer"]
    assert f"{file_uri(long)}: problem big: its prompt has " in messages["ModelEvaluation/long"]
    assert "the model's context 1024" in messages["ModelEvaluation/long"]
    assert "takes 2 after the first 3, and the file has 4" in messages["PreferenceGeneration/few"]
    assert stand_in.asked == []


def test_pairs_of_another_tokenizer(common: Fields, model: Path, stand_in: StandIn, tmp_path: Path) -> None:
    from tests.training.tiny_models import make_pairs, write_pairs

    pairs = [pair.model_copy(update={"tokenizer_digest": "sha256:other"}) for pair in make_pairs(model, 2)]
    uri = write_pairs(tmp_path / "pairs.jsonl", pairs)
    code, message = ends(tmp_path, stand_in, manifest("StepDPOJob", "train", **common, pairs=uri))
    assert code == 65
    assert f"DataError: {uri}, record 1: made with tokenizer sha256:other" in message
    assert "train the model that the pairs were sampled from" in message


def test_an_output_that_is_somebody_else_s(
    common: Fields, model: Path, problems: Path, stand_in: StandIn, tmp_path: Path
) -> None:
    """The result of another configuration stays as it is; so does what belongs to another object."""
    output = tmp_path / "taken"
    (tmp_path / "made").mkdir()
    publish(
        Storage(),
        file_uri(output),
        tmp_path / "made",
        stage="step-dpo",
        schema_version=1,
        digest="sha256:" + "0" * 64,
        inputs={},
        configuration={},
        versions={},
        metadata={},
        result={},
    )
    before = (output / "manifest.json").read_bytes()
    job = manifest("StepDPOJob", "train", **common, pairs=file_uri(problems), output=file_uri(output))
    code, message = ends(tmp_path, stand_in, job)
    assert code == 65
    assert f"{file_uri(output)}: holds the result of another configuration (sha256:000" in message
    assert (output / "manifest.json").read_bytes() == before

    shutil.rmtree(tmp_path / "work")  # another work folder: another object of the same name
    code, message = ends(tmp_path, stand_in, job)
    assert code == 65
    assert "StorageInUse" in message
    assert f"{file_uri(tmp_path / 'out')}/default/train belongs to an earlier default/train (uid " in message


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def test_wrong_s3_credentials(common: Fields, problems: Path, s3: S3Server, stand_in: StandIn, tmp_path: Path) -> None:
    common["storage"] = {"uri": f"s3://{s3.bucket}/runs", "endpoint": s3.endpoint}
    job = manifest("StepDPOJob", "train", **common, pairs=file_uri(problems))
    wrong = s3.environment() | {"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}
    code, message = ends(tmp_path, stand_in, job, **wrong)
    assert code == 66
    assert f"s3://{s3.bucket}/runs/default/train/owner.json: S3 refused the credentials" in message
    assert "check key, secret and bucket policy" in message
    assert "a-wrong-secret" not in message
