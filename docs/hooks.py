"""What `make docs` adds to the pages of docs/: those that live elsewhere, and the commands' help.

README.md is the site's first page. A link is written as GitHub follows it, from file to file of the
checkout, and becomes one of the site here.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import fungi_cli.main
from typer.core import TyperArgument
from typer.main import get_command

from fungistore.headings import GENERAL

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/extract_array.sbatch": "extract_array.sbatch",
}
KEPT = "\b"  # in a help text: the lines that follow are not to be wrapped
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for source, page in ELSEWHERE.items():
        text = (CHECKOUT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the checkout into links between pages."""
    sources = {page: source for source, page in ELSEWHERE.items()}
    written = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(PurePosixPath(written).parent / link[1])
        there = ELSEWHERE.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(there, PurePosixPath(page.file.src_uri).parent)

    return LINK.sub(moved, markdown)


def commands() -> str:
    """Return a page of every command, its help and its options, from the live command line."""
    pieces = ["# Commands", "Made from what `fungi COMMAND --help` says."]
    for name, command in walk("fungi", get_command(fungi_cli.main.app)):
        pieces += [f"## {name}", *map(as_written, command.help.split("\n\n")), options(command)]
    return "\n\n".join(pieces) + "\n"


def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it."""
    if not hasattr(command, "list_commands"):
        yield name, command
        return
    for word in command.list_commands(None):
        yield from walk(f"{name} {word}", command.get_command(None, word))


def as_written(paragraph: str) -> str:
    """A paragraph of a help text; what is kept line by line there is kept so."""
    text = paragraph.strip("\n")
    if not text.startswith(KEPT):
        return text
    title, _, lines = text.removeprefix(KEPT).lstrip("\n").partition(":")
    body = dedent(lines.lstrip("\n"))
    return f"**{title}**\n\n```text\n{body}\n```" if "\n  " in lines else f"**{title}**: {body}"


def options(command: Any) -> str:
    """A table of a command's arguments and options, by the groups that its help has."""
    groups: dict[str, list[str]] = {}
    for parameter in command.params:
        if isinstance(parameter, TyperArgument):
            group, names = "Arguments", f"`{parameter.metavar or parameter.name.upper()}`"
        else:
            group = parameter.rich_help_panel or GENERAL
            names = ", ".join(f"`{name}`" for name in parameter.opts + parameter.secondary_opts)
            names += "" if parameter.is_flag else f" {cell(parameter.metavar)}"
        groups.setdefault(group, []).append(f"| {names} | {cell(parameter.help)} |")
    return "\n\n".join(
        "\n".join([f"| {group} | |", "|---|---|", *rows]) for group, rows in groups.items()
    )


def cell(text: str | None) -> str:
    """A text as a cell of a table has it."""
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")
