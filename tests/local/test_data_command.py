"""`psr data`: converting says what it did and writes the whole file or nothing; showing prints records and lengths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from psr_operator.cli import main
from psr_runtime.data.reading import read_pairs, read_records
from psr_runtime.data.records import IFTRecord, Pair, SearchProblem
from psr_runtime.storage import Storage, file_uri
from tests.records.test_data_schemas import GSM8K, PHASE_1, PHASE_2, SHEPHERD_WRONG, STEP_DPO
from tests.records.test_preferences_as_text import tokenizer

Output = pytest.CaptureFixture[str]


def source(folder: Path, *records: object) -> Path:
    path = folder / "source.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_an_import_says_what_it_read_wrote_and_dropped(tmp_path: Path, capsys: Output) -> None:
    words = ["data", "import", str(source(tmp_path, PHASE_1, PHASE_2, GSM8K)), "--as", "ift", "--to"]
    to = tmp_path / "new" / "ift.jsonl"
    assert main([*words, "file:///psr/ift.jsonl", "--mount", f"/psr={to.parent}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "read    3 records: PRM800K (phases 1 and 2) (2), GSM8K (1)",
        "dropped 1: no path of right steps to an answer",
        "wrote 2 records to file:///psr/ift.jsonl",
    ]
    written = read_records(Storage(), file_uri(to), IFTRecord)
    assert written == read_records(Storage(), file_uri(tmp_path / "source.jsonl"), IFTRecord)
    assert [path.name for path in to.parent.iterdir()] == ["ift.jsonl"], "nothing half-written stays"


def test_a_dry_run_writes_nothing_and_json_says_all(tmp_path: Path, capsys: Output) -> None:
    to = tmp_path / "problems.jsonl"
    words = ["data", "import", str(source(tmp_path, GSM8K, GSM8K)), "--as", "problems", "--to", str(to), "--json"]
    assert main([*words, "--dry-run"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["read"], said["written"], said["forms"], said["dry_run"]) == (2, 2, {"GSM8K": 2}, True)
    assert not to.exists()
    assert main(words) == 0
    assert json.loads(to.read_text().splitlines()[0]) == {"id": "p1", "problem": GSM8K["question"]}
    assert json.loads(capsys.readouterr().out)["sha256"] == said["sha256"]
    assert len(read_records(Storage(), file_uri(to), SearchProblem)) == 2


def test_other_content_stays(tmp_path: Path, capsys: Output) -> None:
    to = tmp_path / "to.jsonl"
    words = ["data", "import", str(source(tmp_path, GSM8K)), "--as", "ift", "--to", str(to)]
    assert main(words) == 0
    assert main(words) == 0
    assert "there already: 1 records" in capsys.readouterr().out
    to.write_text("mine")
    for more in ([], ["--dry-run"]):
        assert main([*words, *more]) == 65
        assert "holds other content, which stays" in capsys.readouterr().err
    assert to.read_text() == "mine"
    assert main([*words[:-1], str(tmp_path)]) == 64
    assert "is a folder; name a file" in capsys.readouterr().err


def test_a_wrong_record_leaves_no_file(tmp_path: Path, capsys: Output) -> None:
    to = tmp_path / "to.jsonl"
    wrong = source(tmp_path, GSM8K, {"question": "x?"})
    assert main(["data", "import", str(wrong), "--as", "ift", "--to", str(to)]) == 65
    assert "source.jsonl, line 2: steps: Field required" in capsys.readouterr().err
    assert not to.exists()
    assert main(["data", "show", str(tmp_path / "none.jsonl")]) == 66


def test_preferences_as_text_need_a_model(tmp_path: Path, capsys: Output) -> None:
    model = tmp_path / "model"
    made_by = tokenizer(model, [])
    to = tmp_path / "pairs.jsonl"
    words = ["data", "import", str(source(tmp_path, STEP_DPO)), "--as", "pairs", "--to", str(to)]
    assert main(words) == 64
    assert "its preferences are text; name the model" in capsys.readouterr().err
    prompt = tmp_path / "solve.txt"
    prompt.write_text("Solve: {problem}")
    assert main([*words, "--model", str(model), "--solve", str(prompt)]) == 0
    (pair,) = read_pairs(Storage(), file_uri(to))
    assert isinstance(pair, Pair)
    assert pair.tokenizer_digest == made_by.digest
    assert made_by.inner.decode(pair.prompt_ids) == "<user>Solve: x?<assistant>"
    assert "1 preferences that are text were tokenised" in capsys.readouterr().err


def test_show_prints_records_and_lengths(tmp_path: Path, capsys: Output) -> None:
    place = str(source(tmp_path, GSM8K, {"question": "x?", "answer": "1\n#### 1"}))
    assert main(["data", "show", place, "-n", "1"]) == 0
    printed = capsys.readouterr().out
    assert '"Step 1: Half is 48/2 = 24."' in printed
    assert "2 records, read as ift" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["problem", "2", "2", "12", "12", "12"] in rows
    tokenizer(tmp_path / "model", [])
    assert main(["data", "show", place, "--as", "problems", "--model", str(tmp_path / "model"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["first"][1] == {"id": "", "problem": "x?"}
    longest = {unit: rows["problem"]["100 %"] for unit, rows in shown["lengths"].items()}
    assert longest["characters"] == 12
    assert longest["tokens"] > 200, "the solver prompt counts"


@pytest.mark.parametrize(("record", "purpose"), [(STEP_DPO, "pairs"), (GSM8K, "ift"), ({"problem": "x?"}, "problems")])
def test_show_reads_a_form_as_what_it_is(record: object, purpose: str, tmp_path: Path, capsys: Output) -> None:
    assert main(["data", "show", str(source(tmp_path, record)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["as"] == purpose


def test_labels_of_which_nothing_is_left_say_so(tmp_path: Path, capsys: Output) -> None:
    assert main(["data", "show", str(source(tmp_path, SHEPHERD_WRONG)), "--as", "ift"]) == 65
    assert "nothing in it is read as ift (no path of right steps to an answer (1))" in capsys.readouterr().err
