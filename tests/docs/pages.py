"""What the pages of this repository tell a reader to type, and to write into files."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
PROGRAMS = (".venv/dev/bin/python", "aws", "curl", "docker", "helm", "kubectl", "make", "pip", "psr", "python")
COMMAND = re.compile(rf"(\w+=\$\()?({'|'.join(map(re.escape, PROGRAMS))}) ")
"""How a block begins that is to be typed; others show what is printed, or drawn."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language (empty: none) and text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        whole: whether it stands there to be typed; else it is named in a sentence, perhaps without all it needs.
    """

    place: str
    text: str
    whole: bool = True

    @property
    def words(self) -> list[str]:
        """Its words, without a comment."""
        return shlex.split(self.text, comments=True)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    for match in re.finditer(r"(?ms)^```(\w*)\n(.*?)^```$", text):
        yield Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])


def commands_of(block: Block) -> list[Command]:
    """The commands of a block without a language: a line each, unless it ends in a backslash."""
    if block.language or not COMMAND.match(block.text):
        return []
    lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
    listed = []
    for line in filter(None, map(str.strip, lines)):
        inner = re.fullmatch(r"\w+=\$\((.*)\)", line)
        listed.append(Command(block.place, inner[1].split(" | ")[0] if inner else line))
    return listed


def commands(page: Path) -> list[Command]:
    """The commands of a page: in blocks, and in the text where they stand with arguments."""
    text = page.read_text()
    listed = [command for block in blocks(page) for command in commands_of(block)]
    prose = re.sub(r"(?ms)^```.*?^```$", "", text)
    for span in re.findall(r"`([^`]+)`", prose):
        words = span.split()
        if words[0] in ("helm", "kubectl", "psr") and len(words) > 2:
            listed.append(Command(str(page.relative_to(ROOT)), " ".join(words), whole=False))
    return listed


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The targets of a page's links that lie in this repository."""
    prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def check_generated(page: Path, name: str, by: str, text: str) -> None:
    """A part of a page is what the code says; with PSR_WRITE_GOLDEN it is written anew.

    Args:
        name: of the part, as its marks have it.
        by: the command that writes it.
    """
    begin, end = f"<!-- {name}: written by {by} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = page.read_text().partition(begin)
    part, _, after = rest.partition(end)
    assert after, f"{page.name} has lost the marks of its table"
    if os.environ.get("PSR_WRITE_GOLDEN"):
        page.write_text(f"{before}{begin}{text}\n{end}{after}")
        return
    assert part == f"{text}\n", f"{by} writes it anew"
