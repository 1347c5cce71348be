"""`psr data`: convert data into PSR's own records, and look at records and their lengths."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psr_operator.commands.mounts import add_mounts, mounts_of
from psr_runtime.config import ModelSource, Prompts
from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.storage import Storage, file_uri

if TYPE_CHECKING:
    from psr_runtime.data.reading import Door
    from psr_runtime.prompts.templates import Templates
    from psr_runtime.prompts.tokens import Tokenizer

NAME = "data"
SUMMARY = "convert data, and show records and lengths"
DESCRIPTION = (
    "Data from elsewhere in the forms of docs/data.md: GSM8K, MATH, NuminaMath, PRM800K, Step-DPO-10K, TRL and others; "
    "JSON lines, JSON arrays, CSV, Parquet, gzip and zstd, folders. SOURCE is a path or a URI."
)
EXAMPLES_OF_IMPORT = """\
  psr data import gsm8k/ --as ift --to file:///psr/input/ift.jsonl --mount /psr=out/volume
"""
EXAMPLES_OF_SHOW = """\
  psr data show s3://bucket/data/problems.jsonl --as problems
"""
EXAMPLES = EXAMPLES_OF_IMPORT + EXAMPLES_OF_SHOW
IMPORTED = ("problems", "ift", "eft", "pairs")
PURPOSES = ("problems", "evaluation", "ift", "eft", "pairs")
SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two commands below `psr data`."""
    commands = parser.add_subparsers(required=True, metavar="import|show")
    convert = commands.add_parser(
        "import",
        help="convert data into a JSON-lines file of PSR's records",
        description="Convert data and say what was read, written and dropped. What stands at --to already stays.",
        epilog=f"examples:\n{EXAMPLES_OF_IMPORT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("source", metavar="SOURCE", help="file or folder of the data: a path or a URI")
    convert.add_argument("--as", dest="purpose", required=True, choices=IMPORTED, help="what the data are read as")
    convert.add_argument("--to", required=True, metavar="URI", help="the JSON-lines file to write: a URI or a path")
    convert.add_argument("--dry-run", action="store_true", help="say what would be done and write nothing")
    convert.set_defaults(work=_import)
    show = commands.add_parser(
        "show",
        help="print records and their lengths",
        description="Print the first records as they are read, and how long all of them are.",
        epilog=f"examples:\n{EXAMPLES_OF_SHOW}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    show.add_argument("source", metavar="URI", help="file, folder or pair set: a path or a URI")
    show.add_argument(
        "--as", dest="purpose", choices=PURPOSES, help="what the data are read as (default: by their form)"
    )
    show.add_argument("-n", "--records", type=int, default=SHOWN, metavar="N", help="records to print (default: 3)")
    show.set_defaults(work=_show)
    for command in (convert, show):
        command.add_argument("--split", help="split of a data set (default: train, or test for evaluation)")
        command.add_argument("--model", metavar="URI", help="model whose tokenizer and chat template count")
        command.add_argument(
            "--solve", type=Path, metavar="FILE", help="solver prompt with {problem} (default: the paper's)"
        )
        command.add_argument("--json", action="store_true", help="print one JSON document")
        add_mounts(command)


def execute(options: argparse.Namespace) -> int:
    """Convert or show. Returns 0."""
    work: Any = options.work
    result: int = work(options)
    return result


def _import(options: argparse.Namespace) -> int:
    from psr_runtime.data.importing import import_data
    from psr_runtime.data.tokenised import PairEncoder

    storage = Storage(mounts=mounts_of(options))
    tokenizer, templates = _model(options, storage)
    encoder = PairEncoder(tokenizer, templates) if tokenizer is not None else None
    imported = import_data(_door(options, storage, options.purpose), _uri(options.to), encoder, dry_run=options.dry_run)
    if options.json:
        print(json.dumps(vars(imported) | {"dry_run": options.dry_run}, ensure_ascii=False))
        return 0
    verb = "would write" if options.dry_run else "there already:" if imported.present else "wrote"
    forms = ", ".join(f"{name} ({count})" for name, count in imported.forms.items())
    print(f"read    {imported.read} records: {forms}")
    for reason, count in imported.dropped.items():
        print(f"dropped {count}: {reason}")
    print(f"{verb} {imported.written} records to {imported.to}")
    for line in imported.said:
        print(line, file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    from psr_runtime.data.importing import line_of
    from psr_runtime.data.lengths import table, texts_of, tokens_of
    from psr_runtime.data.records import Preference
    from psr_runtime.data.tokenised import PairEncoder

    storage = Storage(mounts=mounts_of(options))
    tokenizer, templates = _model(options, storage)
    purpose, records = _records(options, storage)
    characters: dict[str, list[int]] = defaultdict(list)
    tokens: dict[str, list[int]] = defaultdict(list)
    encoder = PairEncoder(tokenizer, templates) if tokenizer is not None else None
    first = [json.loads(line_of(record)) for record in records[: options.records]]
    for number, record in enumerate(records, 1):
        for name, text in texts_of(record).items():
            characters[name].append(len(text))
        if tokenizer is not None and encoder is not None:
            counted = encoder.pair(record, number) if isinstance(record, Preference) else record
            for name, count in tokens_of(counted, tokenizer, templates).items():
                tokens[name].append(count)
    lengths = {"characters": table(characters)} | ({"tokens": table(tokens)} if tokens else {})
    if options.json:
        print(
            json.dumps({"as": purpose, "records": len(records), "first": first, "lengths": lengths}, ensure_ascii=False)
        )
        return 0
    for record in first:
        print(json.dumps(record, ensure_ascii=False, indent=1))
    print(f"{len(records)} records, read as {purpose}")
    for unit, rows in lengths.items():
        _print_table(unit, rows)
    return 0


def _print_table(unit: str, rows: Mapping[str, Mapping[str, int]]) -> None:
    shares = list(next(iter(rows.values())))
    width = max(map(len, [unit, *rows]))
    print(f"\n{unit:<{width}}" + "".join(f"{share:>9}" for share in shares))
    for name, values in rows.items():
        print(f"{name:<{width}}" + "".join(f"{values[share]:>9,}" for share in shares))


def _records(options: argparse.Namespace, storage: Storage) -> tuple[str, list[Any]]:
    """What the data are read as, and their records."""
    from psr_runtime.artefacts.manifest import read_manifest
    from psr_runtime.data.reading import print_said, read_pairs
    from psr_runtime.data.schemas import Purpose

    source = _uri(options.source)
    if read_manifest(storage, source) is not None:
        return Purpose.PAIRS, list(read_pairs(storage, source))
    purpose = options.purpose or _natural_purpose(options, storage)
    door = _door(options, storage, purpose)
    records: list[Any] = list(door.records())
    print_said(door)
    return purpose, records


def _natural_purpose(options: argparse.Namespace, storage: Storage) -> str:
    """What data are read as when nobody says it: the narrowest purpose that can read their first record."""
    from psr_runtime.data.files import rows_of
    from psr_runtime.data.schemas import Purpose, reads

    door = _door(options, storage, Purpose.PROBLEMS)
    row = next(itertools.chain.from_iterable(rows_of(storage, uri) for uri in door.files.uris), None)
    narrow = (Purpose.EFT, Purpose.PAIRS, Purpose.IFT, Purpose.EVALUATION)
    return next((item for item in narrow if row is not None and reads(row.value, item)), Purpose.PROBLEMS)


def _door(options: argparse.Namespace, storage: Storage, purpose: str) -> Door:
    from psr_runtime.data.reading import open_door
    from psr_runtime.data.schemas import Purpose

    return open_door(storage, _uri(options.source), Purpose(purpose), options.split)


def _model(options: argparse.Namespace, storage: Storage) -> tuple[Tokenizer | None, Templates]:
    """Tokenizer of the model that was named, if any, and the prompts."""
    from psr_runtime.prompts.templates import Templates

    try:
        solve = options.solve.read_text(encoding="utf-8") if options.solve is not None else None
    except OSError as error:
        raise ConfigurationError(f"--solve {options.solve}: {error.strerror}") from error
    templates = Templates.of(Prompts(solve=solve))
    if options.model is None:
        return None, templates
    from psr_runtime.artefacts.checkpoints import fetch_tokenizer

    with tempfile.TemporaryDirectory(prefix="psr-data-") as folder:
        return fetch_tokenizer(storage, ModelSource(uri=_uri(options.model)), Path(folder)), templates


def _uri(text: str) -> str:
    """A URI, of a path where no scheme is written."""
    return text if "://" in text else file_uri(text)
