"""How help is laid out: options under headings, names as a user types them, nothing cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

from fungistore.errors import UsageError
from fungistore.headings import FIRST, GENERAL, LAST

WIDEST = 100  # columns; on a wider terminal lines would be too long to read
NAMES_WIDTH = 28  # of the column of names; a longer one has a line of its own
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": WIDEST}

ARGUMENTS = "Arguments"
NO_BREAK = "\xa0"

Row = tuple[str, str]


class Page(TyperCommand):
    """A command whose help has its options under headings."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse words; where a shell asks for the value of the last one, the others count."""
        if ctx.resilient_parsing and args and args[-1].startswith("--"):
            args = args[:-1]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the command's name in its usage."""
        return _usage(self.get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options."""
        _write(formatter, _options(self, ctx))


class Pages(TyperGroup):
    """A group of commands whose help lists them under headings, with whole summaries."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the group's name in its usage."""
        return [*_usage(self.get_params(ctx)), self.subcommand_metavar]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then options."""
        commands: dict[str, list[Row]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            commands.setdefault(heading, []).append((name, _summary(command)))
        _write(formatter, commands)
        _write(formatter, _options(self, ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the first word names.

        Raises:
            UsageError: there is none; named are those that there are.
        """
        word, known = args[0], self.list_commands(ctx)
        if word in known or word.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        near = get_close_matches(word, known, 1)
        raise UsageError(
            "no such command",
            where=ctx.command_path,
            expected=f"one of {', '.join(known)}",
            found=word,
            hint=" ".join([ctx.command_path, *near, "--help"]),
        )


def _usage(params: Iterable[Any]) -> list[str]:
    arguments = [param for param in params if isinstance(param, TyperArgument)]
    words = [_name(one) if one.required else f"[{_name(one)}]" for one in arguments]
    return [*words, "[OPTIONS]"]


def _options(command: Any, ctx: Any) -> dict[str, list[Row]]:
    sections: dict[str, list[Row]] = {}
    for param in command.get_params(ctx):
        if param.hidden:
            continue
        if isinstance(param, TyperArgument):
            sections.setdefault(ARGUMENTS, []).append((_name(param), _help(param)))
        else:
            names, text = param.get_help_record(ctx)
            sections.setdefault(param.rich_help_panel or GENERAL, []).append((names, text))
    between = sections.keys() - {ARGUMENTS, *FIRST, *LAST}
    order = [ARGUMENTS, *FIRST, *(name for name in sections if name in between), *LAST]
    return {name: sections[name] for name in order if name in sections}


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _help(argument: Any) -> str:
    default = f"  [default: {argument.default}]" if isinstance(argument.default, str) else ""
    return f"{argument.help}{default}"


def _summary(command: Any) -> str:
    """Return the first paragraph of a command's help."""
    paragraph, _, _ = (command.help or "").partition("\n\n")
    return " ".join(paragraph.split())


def _write(formatter: Any, sections: dict[str, list[Row]]) -> None:
    names = (name for rows in sections.values() for name, _ in rows)
    width = max((len(name) for name in names if len(name) <= NAMES_WIDTH), default=0)
    for heading, rows in sections.items():
        with formatter.section(heading):
            formatter.write_dl(list(_padded(rows, width)), col_max=width)
    formatter.buffer[:] = [text.replace(NO_BREAK, " ") for text in formatter.buffer]


def _padded(rows: Iterable[Row], width: int) -> Iterator[Row]:
    """Yield rows whose second column begins at the same place in all sections."""
    for name, text in rows:
        yield name.ljust(width), text.replace("[default: ", f"[default:{NO_BREAK}")
