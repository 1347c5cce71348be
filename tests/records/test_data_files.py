"""Data in every form of file and folder that people have them in are the same records; a broken one is named."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from psr_runtime.data.files import rows_of
from psr_runtime.data.reading import open_door, read_records
from psr_runtime.data.records import GradedProblem, IFTRecord, SearchProblem
from psr_runtime.data.schemas import Purpose
from psr_runtime.protocol.errors import DataError, InputMissing
from psr_runtime.storage import Storage, file_uri

RECORDS = [{"problem": f"How much is {n} + 1?\n\u2028ü", "answer": str(n + 1)} for n in range(5)]
STORAGE = Storage()


def lines() -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def as_csv(delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["problem", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(RECORDS)
    return text.getvalue().encode()


def as_parquet() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(RECORDS), sink, row_group_size=2)
    return sink.getvalue()


def as_arrow(new: Callable[..., Any]) -> bytes:
    table = pa.Table.from_pylist(RECORDS)
    sink = io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


FORMS: dict[str, Callable[[], bytes]] = {
    "lines.jsonl": lines,
    "lines": lines,
    "lines-with-crlf.jsonl": lambda: lines().replace(b"\n", b"\r\n"),
    "lines-with-bom.jsonl": lambda: b"\xef\xbb\xbf" + lines(),
    "lines-without-last-break.jsonl": lambda: b"\n" + lines().rstrip(),
    "array.json": lambda: json.dumps(RECORDS, indent=2).encode(),
    "array-with-bom.json": lambda: b"\xef\xbb\xbf \r\n" + json.dumps(RECORDS).encode() + b"\r\n",
    "table.csv": as_csv,
    "table-with-bom.csv": lambda: b"\xef\xbb\xbf" + as_csv(),
    "table.tsv": lambda: as_csv("\t"),
    "of-a-spreadsheet.csv": lambda: as_csv(";"),
    "table-without-ending": as_csv,
    "table.parquet": as_parquet,
    "stream.arrow": lambda: as_arrow(ipc.new_stream),
    "file.arrow": lambda: as_arrow(ipc.new_file),
    "lines.jsonl.gz": lambda: gzip.compress(lines()),
    "two-members.jsonl.gz": lambda: gzip.compress(lines()[:40]) + gzip.compress(lines()[40:]),
    "lines.jsonl.zst": lambda: zstd(lines()),
    "two-frames.jsonl.zst": lambda: zstd(lines()[:40]) + zstd(lines()[40:]),
    "array.json.zst": lambda: zstd(json.dumps(RECORDS).encode()),
    "table.csv.gz": lambda: gzip.compress(as_csv()),
    "table.parquet.gz": lambda: gzip.compress(as_parquet()),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_file_of_any_form_holds_the_same_records(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FORMS[name]())
    records = read_records(STORAGE, file_uri(tmp_path / name), GradedProblem)
    assert [record.model_dump(exclude={"id"}) for record in records] == RECORDS


def test_an_array_is_read_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psr_runtime.data.files.CHUNK", 7)
    (tmp_path / "array.json").write_text(json.dumps(RECORDS))
    assert [row.value for row in rows_of(STORAGE, file_uri(tmp_path / "array.json"))] == RECORDS


def test_lists_stand_in_csv_cells_as_json(tmp_path: Path) -> None:
    steps = ["Step 1: 1, 2", 'Step 2: "3" = \\boxed{3}']
    with open(tmp_path / "ift.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["question", "steps"], ["1 + 2?", json.dumps(steps)]])
    assert read_records(STORAGE, file_uri(tmp_path / "ift.csv"), IFTRecord) == [
        IFTRecord(problem="1 + 2?", steps=steps)
    ]


BROKEN = {
    "cut.jsonl": (lines()[:-20], r"cut\.jsonl, line 5: the line: Invalid JSON"),
    "text.jsonl": (b"How much is 1 + 1?\n", r"text\.jsonl, line 1: the line: Invalid JSON"),
    "latin.jsonl": ('{"problem": "ü", "answer": "1"}'.encode("latin-1"), r"latin\.jsonl, line 1: not UTF-8"),
    "wide.jsonl": (lines().decode().encode("utf-16"), r"wide\.jsonl: is UTF-16; save it as UTF-8"),
    "number.jsonl": (b'{"problem": "1 + 1?", "answer": "2"}\n7\n', r"line 2: must be an object with fields"),
    "nothing.jsonl": (b"\n \n", r"nothing\.jsonl: the file is empty; expected one GradedProblem a line"),
    "cut.json": (json.dumps(RECORDS).encode()[:-30], r"cut\.json, record 5: Invalid JSON"),
    "open.json": (json.dumps(RECORDS).encode()[:-1], r"open\.json, record 5: neither a comma nor the end"),
    "ragged.csv": (b"problem,answer\r\n1 + 1?,2\r\n2 + 2?\r\n", r"ragged\.csv, line 3: 1 cells where the header has 2"),
    "twice.csv": (b"problem,problem\r\n1,2\r\n", r"line 1: the column 'problem' stands twice"),
    "empty-cell.csv": (b"problem,answer\r\n1 + 1?,\r\n", r"line 2: answer: Field required"),
    "cut.parquet": (as_parquet()[:-9], r"cut\.parquet, after row 0: it cannot be read"),
    "cut.jsonl.gz": (gzip.compress(lines())[:-12], r"cut\.jsonl\.gz: it cannot be unpacked"),
    "cut.jsonl.zst": (zstd(lines())[:-12], r"cut\.jsonl\.zst"),
    "pointer.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"is a Git LFS pointer"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_place(name: str, tmp_path: Path) -> None:
    data, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_records(STORAGE, file_uri(tmp_path / name), GradedProblem)


# --- folders -------------------------------------------------------------------------------------------------


def write(folder: Path, **names: int) -> str:
    """Files with one problem each; `__` in a name stands for a slash. Returns the folder's URI."""
    for name, number in names.items():
        path = folder / name.replace("__", "/").replace("_of_", "-of-").replace("_0", "-0")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".jsonl").write_text(json.dumps({"problem": f"p{number}", "answer": "1"}))
    return file_uri(folder)


def problems(uri: str, purpose: Purpose = Purpose.PROBLEMS, split: str | None = None) -> list[str]:
    return [record.problem for record in open_door(STORAGE, uri, purpose, split).records()]  # type: ignore[attr-defined]


def test_a_folder_of_files_is_read_in_order_of_names(tmp_path: Path) -> None:
    uri = write(tmp_path, b=2, a=1, sub__c=3)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.jsonl").write_text("broken")
    (tmp_path / "README.md").write_text("# About\n")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert problems(uri) == ["p1", "p2", "p3"]


def test_training_reads_the_train_split_and_evaluation_the_test_split(tmp_path: Path) -> None:
    uri = write(tmp_path, data__train_00000_of_00002=1, data__train_00001_of_00002=2, data__test_00000_of_00001=3)
    assert problems(uri) == ["p1", "p2"]
    assert problems(uri, Purpose.EVALUATION) == ["p3"]
    assert problems(uri, split="test") == ["p3"]
    assert open_door(STORAGE, uri, Purpose.IFT).said() == [f"{uri}: split train read; not test"]


def test_the_front_matter_says_the_splits(tmp_path: Path) -> None:
    uri = write(tmp_path, first=1, second=2, other__third=3)
    front = """configs:
- config_name: default
  data_files:
  - {split: train, path: ["f*.jsonl", second.jsonl]}
  - {split: test, path: "other/*"}
- config_name: more
  data_files: second.jsonl
"""
    (tmp_path / "README.md").write_text(f"---\nlanguage: en\n{front}---\n# About\n")
    assert (problems(uri), problems(uri, Purpose.EVALUATION)) == (["p1", "p2"], ["p3"])
    (tmp_path / "README.md").write_text(f"---\n{front.replace('name: default', 'name: main')}---\n")
    with pytest.raises(DataError, match=r"holds several data sets \(main, more\); give the URI of the folder or file"):
        problems(uri)


FOLDERS: dict[str, tuple[dict[str, int], str]] = {
    "two splits of no purpose": (
        {"easy_00000_of_00001": 1, "hard_00000_of_00001": 2},
        "none is called train; there are",
    ),
    "nothing": ({}, "holds no data file"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_nobody_can_read_says_why(case: str, tmp_path: Path) -> None:
    names, message = FOLDERS[case]
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(DataError, match=message):
        problems(write(tmp_path, **names))


def test_the_same_data_in_two_forms_are_not_read_twice(tmp_path: Path) -> None:
    uri = write(tmp_path, train=1)
    (tmp_path / "train.parquet").write_bytes(as_parquet())
    with pytest.raises(DataError, match=r"train\.jsonl and train\.parquet look like the same data in two forms"):
        problems(uri)


def test_what_the_library_saves_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` writes Arrow files of its own; a data set of splits is a folder of them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"problem": f"p{number}", "answer": "1"} for number in range(4)])
    rows.save_to_disk(tmp_path / "one", num_shards=2)
    assert problems(file_uri(tmp_path / "one")) == ["p0", "p1", "p2", "p3"]
    DatasetDict(train=rows.select([1]), test=rows.select([2])).save_to_disk(tmp_path / "two")
    assert (problems(file_uri(tmp_path / "two")), problems(file_uri(tmp_path / "two"), split="test")) == (
        ["p1"],
        ["p2"],
    )


def test_nothing_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="no such file or folder"):
        read_records(STORAGE, file_uri(tmp_path / "nothing.jsonl"), SearchProblem)


def test_what_a_store_elsewhere_holds_comes_by_way_of_this_machine(tmp_path: Path) -> None:
    class Elsewhere(Storage):
        def local_path(self, uri: str) -> Path | None:
            return None

    (tmp_path / "table.parquet").write_bytes(as_parquet())
    assert len(read_records(Elsewhere(), file_uri(tmp_path / "table.parquet"), GradedProblem)) == len(RECORDS)


def test_json_lines_need_no_table_library() -> None:
    """Importing the door, in a process of its own, pulls in neither pyarrow nor transformers."""
    code = "import sys, psr_runtime.data.reading, psr_runtime.data.tokenised; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "psr_runtime.data.reading" in loaded
    assert not {"pyarrow", "datasets", "transformers", "torch", "huggingface_hub"} & set(loaded)
