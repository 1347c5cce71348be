"""The stage `prune`, on both stores: what goes, what stays, what is refused, and a death at any time."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psr_runtime.artefacts.fetching import fetch, read_file
from psr_runtime.artefacts.manifest import digest_of_input, read_manifest
from psr_runtime.artefacts.pruned import PRUNED
from psr_runtime.artefacts.publishing import publish
from psr_runtime.config import StorageAccess
from psr_runtime.protocol.errors import InputMissing
from psr_runtime.stage import run_stage
from psr_runtime.storage import Storage, join, name_below

Place = tuple[Storage, str]
Prune = Callable[..., tuple[int, dict[str, Any]]]

FILES = {
    "fingerprint.json": b"{}",
    "master/config.json": b"{}",
    "master/model-00001-of-00002.safetensors": b"m" * 700,
    "master/model-00002-of-00002.safetensors": b"n" * 300,
    "master/model.safetensors.index.json": b"{}",
    "serving/model.safetensors": b"s" * 500,
    "serving/tokenizer.json": b"{}",
}
WEIGHTS = {name for name in FILES if name.endswith(".safetensors")}
LEFT_BEHIND = "resume/7/optimizer.pt"
"""Half-done work that an attempt left which was killed right after its manifest stood."""


def make(storage: Storage, uri: str, folder: Path, *, stage: str = "sft") -> str:
    """A checkpoint and the rest of its training; its digest."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = publish(
        storage,
        uri,
        folder,
        stage=stage,
        schema_version=1,
        digest="sha256:" + "1" * 64,
        inputs={},
        configuration={},
        versions={},
        metadata={"layout": {"training": "master", "serving": "serving"}},
        result={},
    )
    storage.write(join(uri, LEFT_BEHIND), b"o" * 900)
    return manifest.identity


def names(storage: Storage, uri: str) -> set[str]:
    return {name_below(uri, item.uri) for item in storage.list(uri)}


@pytest.fixture
def run(place: Place, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Prune:
    """Run the stage: exit code, and what it left as its result."""
    storage, uri = place
    access = StorageAccess() if storage.local_path(uri) else request.getfixturevalue("access")
    monkeypatch.setenv("PSR_TERMINATION_MESSAGE", str(tmp_path / "message"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("PSR_SCRATCH", str(tmp_path / "scratch"))

    def run(models: list[dict[str, str]], **fields: Any) -> tuple[int, dict[str, Any]]:
        document = {
            "output": join(uri, "retention/m1"),
            "storage": access.to_json(),
            "owner": {"uri": uri, "uid": "uid-1", "name": "team/loop"},
            "models": models,
            "retention": "Last",
        }
        code = run_stage("prune", json.dumps(document | fields))
        return code, json.loads((tmp_path / "message").read_text())

    return run


def test_weights_go_and_everything_that_tells_what_they_were_stays(place: Place, run: Prune, tmp_path: Path) -> None:
    storage, uri = place
    model = join(uri, "m1")
    digest = make(storage, model, tmp_path / "made")
    before = names(storage, model)
    code, result = run([{"uri": model, "digest": digest}])
    assert (code, result["files"], result["bytes"]) == (0, 3, 1500)
    assert names(storage, model) == before - WEIGHTS - {LEFT_BEHIND} | {PRUNED}
    assert digest_of_input(storage, model) == digest, "later stages find the same input"
    manifest = read_manifest(storage, result["output"])
    assert manifest is not None
    assert manifest.inputs["models[0].uri"].digest == digest
    (removed,) = json.loads(read_file(storage, result["output"], "removed.json"))
    assert removed["checkpoint"] == model
    assert {(name_below(model, item["uri"]), item["size"]) for item in removed["files"]} == {
        (name, len(FILES[name])) for name in WEIGHTS
    }


def test_files_that_do_not_have_their_plain_names_go_too(place: Place, run: Prune, tmp_path: Path) -> None:
    """Another writer had claimed those first, with other bytes."""
    storage, uri = place
    model = join(uri, "m1")
    storage.create(join(model, "claim.json"), b'{"content": "other", "files": []}')
    digest = make(storage, model, tmp_path / "made")
    before = names(storage, model)
    assert not before & WEIGHTS
    code, result = run([{"uri": model, "digest": digest}])
    assert (code, result["files"]) == (0, 3)
    gone = {name for name in before if name.endswith(".safetensors")}
    assert len(gone) == 3
    assert names(storage, model) == before - gone - {LEFT_BEHIND} | {PRUNED}


def test_who_misses_the_weights_learns_why(place: Place, run: Prune, tmp_path: Path) -> None:
    storage, uri = place
    model = join(uri, "m1")
    digest = make(storage, model, tmp_path / "made")
    run([{"uri": model, "digest": digest}])
    for part in ("master", "serving"):
        with pytest.raises(InputMissing, match="its weights were pruned by retention Last of run team/loop") as caught:
            fetch(storage, model, tmp_path / "fetched", below=part)
        assert "storage.retention" in str(caught.value)
    with pytest.raises(InputMissing) as other:
        fetch(storage, join(uri, "m2"), tmp_path / "fetched")
    assert "pruned" not in str(other.value)


def test_asked_again_it_says_the_same_and_does_nothing(place: Place, run: Prune, tmp_path: Path) -> None:
    """Also under another rule: what is gone is gone."""
    storage, uri = place
    model = join(uri, "m1")
    digest = make(storage, model, tmp_path / "made")
    first = run([{"uri": model, "digest": digest}])
    word = storage.read(join(model, PRUNED))
    assert run([{"uri": model, "digest": digest}], retention="Best") == first
    assert storage.read(join(model, PRUNED)) == word
    assert json.loads(word)["retention"] == "Last"


class Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("operation", ["delete", "delete_folder", "create", "write", "upload"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_time_the_next_attempt_ends_the_same(
    place: Place, run: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, when: str
) -> None:
    storage, uri = place
    plain = getattr(Storage, operation)
    ends = []
    for at in range(10):
        model = join(uri, f"at-{at}/m1")
        digest = make(storage, model, tmp_path / f"made-{at}")
        arguments = {"models": [{"uri": model, "digest": digest}], "output": join(uri, f"at-{at}/retention")}
        calls = 0

        def dying(self: Storage, *arguments: Any, at: int = at, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at + 1 and when == "before":
                raise Killed
            result = plain(self, *arguments, **named)
            if calls == at + 1:
                raise Killed
            return result

        monkeypatch.setattr(Storage, operation, dying)
        killed = False
        try:
            run(**arguments)
        except Killed:
            killed = True
        monkeypatch.setattr(Storage, operation, plain)
        if WEIGHTS - names(storage, model):
            assert PRUNED in names(storage, model), "weights went without a word"
        code, result = run(**arguments)
        manifest = read_manifest(storage, result["output"])
        assert manifest is not None
        listed = [entry.path for entry in manifest.files]
        ends.append((code, result["files"], result["bytes"], names(storage, model), listed))
        if not killed:
            break
    assert not killed, "there are more moments than were tried"
    assert len(ends) > 1, f"nothing was killed at {operation}"
    assert all(end == ends[0] for end in ends)
    assert not WEIGHTS & ends[0][3]


def test_asked_to_stop_it_ends_with_75_and_goes_on_later(
    place: Place, run: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, uri = place
    model = join(uri, "m1")
    digest = make(storage, model, tmp_path / "made")
    plain = Storage.delete

    def signalled(self: Storage, at: str) -> None:
        plain(self, at)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Storage, "delete", signalled)
    assert run([{"uri": model, "digest": digest}])[0] == 75
    assert len(WEIGHTS - names(storage, model)) == 1
    monkeypatch.setattr(Storage, "delete", plain)
    assert run([{"uri": model, "digest": digest}])[0] == 0
    assert not WEIGHTS & names(storage, model)


# --- what is refused, and nothing is removed -------------------------------------------------------------------


def test_anything_outside_of_the_claim_is_refused_before_it_is_looked_at(
    place: Place, run: Prune, tmp_path: Path
) -> None:
    storage, uri = place
    owner = {"uri": join(uri, "loop"), "uid": "uid-1", "name": "team/loop"}
    digest = make(storage, join(uri, "theirs/m1"), tmp_path / "made")
    before = names(storage, uri)
    for model in (
        join(uri, "theirs/m1"),
        join(uri, "loop"),
        join(uri, "loop2/m1"),
        f"{uri}/loop/../theirs/m1",
        f"{uri}/loop//m1",
    ):
        code, message = run([{"uri": model, "digest": digest}], owner=owner)
        assert code == 64, model
        assert "does not lie below" in message["error"]
    assert names(storage, uri) == before
    code, message = run([{"uri": join(uri, "theirs/m1"), "digest": digest}], owner=None)
    assert code == 64
    assert "owner" in message["error"]


def test_something_else_in_its_place_is_left_alone(place: Place, run: Prune, tmp_path: Path) -> None:
    """Another digest, an artefact that is no checkpoint, a plain folder, nothing: and not even the right one goes."""
    storage, uri = place
    right = make(storage, join(uri, "m1"), tmp_path / "made")
    make(storage, join(uri, "pairs"), tmp_path / "pairs", stage="merge")
    storage.write(join(uri, "base/model.safetensors"), b"the user's own")
    pairs = read_manifest(storage, join(uri, "pairs"))
    assert pairs is not None
    cases = {
        "m1": ("sha256:" + "0" * 64, 65, "nothing was removed"),
        "pairs": (pairs.identity, 65, "made by stage merge"),
        "base": ("sha256:" + "0" * 64, 66, "no manifest.json"),
        "gone": ("sha256:" + "0" * 64, 66, "nothing is there"),
    }
    for name, (digest, expected, message) in cases.items():
        models = [{"uri": join(uri, "m1"), "digest": right}, {"uri": join(uri, name), "digest": digest}]
        before = names(storage, uri) | {"owner.json"}
        code, said = run(models, output=join(uri, "retention", name))
        assert (code, message in said["error"]) == (expected, True), said
        assert names(storage, uri) == before


def test_a_prefix_of_another_owner_is_refused(place: Place, run: Prune, tmp_path: Path) -> None:
    """Whether the claimed prefix itself is theirs, or a folder on the way."""
    storage, uri = place
    digest = make(storage, join(uri, "nested/m1"), tmp_path / "made")
    storage.write(join(uri, "nested/owner.json"), b'{"uid": "uid-2", "name": "team/other"}')
    models = [{"uri": join(uri, "nested/m1"), "digest": digest}]
    code, said = run(models)
    assert (code, said["reason"]) == (65, "StorageInUse")
    assert "belongs to uid uid-2" in said["error"]
    storage.write(join(uri, "owner.json"), b'{"uid": "uid-3", "name": "team/third"}')
    code, said = run(models)
    assert (code, "team/third" in said["error"]) == (65, True)
    assert names(storage, join(uri, "nested/m1")) >= WEIGHTS


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_no_link_leads_out_of_the_prefix(run: Prune, place: Place, tmp_path: Path) -> None:
    storage, uri = place
    digest = make(storage, join(uri, "m1"), tmp_path / "made")
    outside = tmp_path / "the-users-model"
    (tmp_path / "stored/m1/master").rename(outside)
    (tmp_path / "stored/m1/master").symlink_to(outside)
    code, said = run([{"uri": join(uri, "m1"), "digest": digest}])
    assert (code, str(outside) in said["error"]) == (65, True)
    assert len(list(outside.glob("*.safetensors"))) == 2
    assert "serving/model.safetensors" in names(storage, join(uri, "m1"))
