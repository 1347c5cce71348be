"""Reading a pair set: verified where it is an artefact, and never empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from psr_runtime.artefacts.publishing import publish
from psr_runtime.data.reading import read_pairs
from psr_runtime.data.records import Pair
from psr_runtime.protocol.errors import DataError, InputMissing
from psr_runtime.storage import Storage, file_uri

PAIR = Pair(
    problem_id="p1",
    iteration=1,
    level=1,
    attempt=0,
    prompt_ids=[1, 2],
    path_ids=[],
    chosen_ids=[3],
    rejected_ids=[4],
    chosen_ended="stop",
    rejected_ended="eos",
    scores=[1, 0],
    multiplicity=[1, 1],
    no_verdict=0,
    model_digest="m",
    tokenizer_digest="t",
    template_digest="c",
    prompt="p",
    chosen="a",
    rejected="b",
)
STORAGE = Storage()


def _publish(folder: Path, lines: str) -> str:
    source = folder / "source"
    source.mkdir()
    (source / "pairs.jsonl").write_text(lines)
    uri = file_uri(folder / "set")
    publish(
        STORAGE,
        uri,
        source,
        stage="merge",
        schema_version=1,
        digest="d",
        inputs={},
        configuration={},
        versions={},
        metadata={},
        result={},
    )
    return uri


def test_a_set_and_a_plain_file_are_read_alike(tmp_path: Path) -> None:
    assert read_pairs(STORAGE, _publish(tmp_path, PAIR.to_line())) == [PAIR]
    (tmp_path / "plain.jsonl").write_text(PAIR.to_line())
    assert read_pairs(STORAGE, file_uri(tmp_path / "plain.jsonl")) == [PAIR]


def test_a_set_without_pairs_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"made no pair.*higher temperature"):
        read_pairs(STORAGE, _publish(tmp_path, ""))


def test_a_set_that_lost_a_line_is_refused(tmp_path: Path) -> None:
    uri = _publish(tmp_path, PAIR.to_line() * 2)
    (tmp_path / "set" / "pairs.jsonl").write_text(PAIR.to_line())
    with pytest.raises(DataError, match=r"pairs\.jsonl: does not have the sha256"):
        read_pairs(STORAGE, uri)


def test_nothing_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        read_pairs(STORAGE, file_uri(tmp_path / "nothing"))
