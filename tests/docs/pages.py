"""The pages as a reader meets them: blocks of commands, of Python, and of files to write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PAGES = (
    CHECKOUT / "README.md",
    CHECKOUT / "CONTRIBUTING.md",
    *sorted((CHECKOUT / "docs").glob("*.md")),
)
FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?$")
NOT_RUN = re.compile(r"^ *<!-- not run: (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    `language` says what it is: "sh", "console", "python", "pycon", or what the file has whose name
    is the `title`. `not_run` is the reason that the page gives in a comment before it.
    """

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    not_run: str | None

    @property
    def where(self) -> str:
        """Where the block is, for a failure."""
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a block, and what the page shows that it prints; None if nothing is shown."""

    text: str
    shown: str | None


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in their order."""
    reason, lines = None, page.read_text(encoding="utf-8").splitlines()
    start, opened = 0, None
    for number, line in enumerate(lines):
        if opened is not None:
            if line == f"{opened[1]}```":
                inside = lines[start + 1 : number]
                text = "\n".join(inner.removeprefix(opened[1]) for inner in inside) + "\n"
                yield Block(page, start + 1, opened[2], opened[3], text, reason)
                opened, reason = None, None
        elif fence := FENCE.match(line):
            start, opened = number, fence
        elif comment := NOT_RUN.match(line):
            reason = comment[1]
        elif line.strip():
            reason = None


def commands(block: Block) -> list[Command]:
    """Return what a block of commands runs: all of "sh" at once, those of "console" one by one."""
    if block.language == "sh":
        return [Command(block.text, None)]
    found = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert found[0] == "", f"{block.where}: output before the first '$ '"
    split = [re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", one, re.DOTALL) for one in found[1:]]
    return [Command(one[1], one[2]) for one in split if one is not None]
