"""Draws docs/house.svg: the floors of the import contracts in pyproject.toml, with the rooms' own words.

`make house-picture` writes it. A floor is a layer of a contract; what a room says of itself is the first sentence of
its docstring; what it has inside are its folders.
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "house.svg"
SOURCES = {"psr_operator": ROOT / "operator" / "psr_operator", "psr_runtime": ROOT / "psr_runtime"}

WIDTH, MARGIN, GAP, PADDING = 1000, 24, 10, 10
NAME, LINE, CHARACTER = 18, 15, 6.3
"""Height of a room's name and of a line of its words, width of a character; in pixels."""
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .name { font: bold 13px ui-monospace, monospace }
  .package { font: bold 15px ui-monospace, monospace }
  .inside { font-style: italic; fill: #57606a }
  .room { fill: #ffffff; stroke: #57606a }
  .psr_operator { fill: #dbeafe }
  .psr_runtime { fill: #dcfce7 }
"""


@dataclass(frozen=True)
class Room:
    """A file or folder at the root of a package.

    Attributes:
        name: dotted, with its package.
        words: what it says of itself, one sentence.
        inside: names of its folders.
    """

    name: str
    words: str
    inside: tuple[str, ...] = ()

    def lines(self, width: float) -> list[tuple[str, str]]:
        """Class and text of each line in a box of this width."""
        characters = int((width - 2 * PADDING) / CHARACTER)
        lines = [("", line) for line in textwrap.wrap(self.words, characters)]
        inside = f"inside: {', '.join(self.inside)}" if self.inside else ""
        return lines + [("inside", line) for line in textwrap.wrap(inside, characters)]


def floors() -> dict[str, list[list[Room]]]:
    """The floors of each package, from above."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = {contract["id"]: contract for contract in settings["contracts"]}
    return {
        "psr_operator": list(_floors_of(contracts["operator"], "psr_operator")),
        "psr_runtime": list(_floors_of(contracts["runtime"], "psr_runtime")),
    }


def _floors_of(contract: dict[str, Any], package: str) -> Iterator[list[Room]]:
    """The layers of a contract, as far as their rooms are those of a package and are there."""
    inside = package in contract.get("containers", ())
    for layer in contract["layers"]:
        names = [name if not inside else f"{package}.{name}" for name in re.findall(r"[\w.]+", layer)]
        rooms = [room(name) for name in names if name.split(".")[0] == package and _source(name).exists()]
        if rooms:
            yield rooms


def _source(name: str) -> Path:
    package, *parts = name.split(".")
    place = SOURCES[package].joinpath(*parts)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def room(name: str) -> Room:
    """A room by its dotted name."""
    source = _source(name)
    docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
    first = " ".join(docstring.split("\n\n")[0].split())
    folders = source.parent.iterdir() if source.name == "__init__.py" else ()
    inside = sorted(place.name for place in folders if place.is_dir() and (place / "__init__.py").exists())
    return Room(name, re.split(r"[.;] ", first)[0].rstrip(".").replace("`", ""), tuple(inside))


def drawn() -> str:
    """The picture, as SVG."""
    boxes: list[str] = []
    top: float = MARGIN
    for package, rows in floors().items():
        start = top
        top += PADDING + NAME
        inner: list[str] = []
        for row in rows:
            height, drawing = _row(row, top)
            inner += drawing
            top += height + GAP
        height = top - start
        boxes.append(_box(MARGIN / 2, start, WIDTH - MARGIN, height, package))
        boxes.append(_text(MARGIN, start + NAME, package, "package"))
        boxes.append(_text(WIDTH - MARGIN, start + NAME, "a floor imports lower floors only ↓", "inside", end=True))
        boxes += inner
        top += MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:g}" role="img">\n'
        "<title>The rooms of PSR on their floors</title>\n"
        f"<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{top:g}" fill="#ffffff"/>\n'
    )
    return head + "\n".join(boxes) + "\n</svg>\n"


def _row(rooms: list[Room], top: float) -> tuple[float, list[str]]:
    """A floor: its height, and its drawing."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
    texts = [item.lines(width) for item in rooms]
    height = PADDING + NAME + LINE * max(map(len, texts)) + PADDING / 2
    drawing = []
    for index, (item, lines) in enumerate(zip(rooms, texts, strict=True)):
        left = MARGIN + index * (width + GAP)
        drawing.append(_box(left, top, width, height, "room"))
        drawing.append(_text(left + PADDING, top + NAME, item.name.split(".")[-1], "name"))
        drawing += [
            _text(left + PADDING, top + NAME + LINE * number, text, kind)
            for number, (kind, text) in enumerate(lines, start=1)
        ]
    return height, drawing


def _box(left: float, top: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="6"/>'


def _text(left: float, top: float, text: str, kind: str, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{kind}" x="{left:g}" y="{top:g}"{anchor}>{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(drawn())
    print(PICTURE.relative_to(ROOT))
