"""Help as a new user meets it: headings, defaults and choices, nothing cut, on any screen."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pytest
from fungi_cli.layout import WIDEST
from fungi_cli.main import COMMANDS, app
from typer.core import TyperArgument
from typer.main import get_command
from typer.testing import CliRunner, Result

import fungistore as fungi
from fungistore.headings import FIRST, GENERAL, LAST, OTHER
from fungistore.settings import Settings, fields_of

COMMAND_LINES = [*([name] for name in COMMANDS), *(["eval", name] for name in fungi.EVALUATIONS)]
LONGEST_SUMMARY = 62  # beside a command's name, on 80 columns
MANY = 8  # options that can be overlooked at a glance


def run(*words: str, columns: int = 80) -> Result:
    return CliRunner().invoke(app, words, prog_name="fungi", env={"COLUMNS": str(columns)})


def found(words: list[str]) -> Any:
    """The command that some words name."""
    command: Any = get_command(app)
    for word in words:
        command = command.get_command(None, word)
    return command


OPTIONS = [
    pytest.param(words, option, id=" ".join([*words, option.opts[0]]))
    for words in COMMAND_LINES
    for option in found(words).params
    if not isinstance(option, TyperArgument)
]


@pytest.mark.parametrize(("words", "option"), OPTIONS)
def test_every_option_says_what_it_is_without_being_given(words: list[str], option: Any) -> None:
    """A default, in words where None is decided on; or that it is required; or it is a switch."""
    is_switch = option.is_flag and not option.secondary_opts
    assert is_switch or option.help.endswith("]"), option.help
    assert is_switch or option.help.split("  [")[1].startswith(("default: ", "required]"))
    assert option.metavar != "TEXT"


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_options_stand_under_headings(words: list[str]) -> None:
    """Where there are many, under several; in one order for all commands; none under none."""
    text = run(*words, "--help").stdout
    options = [o for o in found(words).params if not isinstance(o, TyperArgument)]
    headings = [line[:-1] for line in text.splitlines() if line[:1].strip() and line[-1:] == ":"]
    assert {option.rich_help_panel or GENERAL for option in options} <= set(headings)
    assert OTHER not in headings  # of a plug-in that states none
    assert len(options) <= MANY or len(headings) > 2
    known = [heading for heading in (*FIRST, *LAST) if heading in headings]
    assert [heading for heading in headings if heading in known] == known
    assert headings[-1] == GENERAL


def test_the_heading_of_a_flag_is_stated_with_its_field_or_its_class() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(fungi.KnnOptions):
        """Of a plug-in, which states no heading."""

    assert fields_of(Own)["k"].heading == "Nearest neighbours"
    assert fields_of(Own)["features"].heading == "Features"
    assert fields_of(Own)["shots"].heading == "Train and test rows"
    assert Settings.heading == OTHER


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", [[], ["eval"], *COMMAND_LINES], ids=" ".join)
def test_no_line_is_longer_than_the_terminal(words: list[str], columns: int) -> None:
    """Examples can be read, and copied, as they stand; lines end where eyes tire."""
    text = run(*words, "-h", columns=columns).stdout
    assert max(map(len, text.splitlines())) <= min(columns, WIDEST)
    assert text == run(*words, "--help", columns=columns).stdout
    assert not set("{<") & set(text.splitlines()[0])


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_the_summary_of_a_command_is_a_whole_sentence_on_one_line(words: list[str]) -> None:
    summary = found(words).help.partition("\n\n")[0]
    assert summary.endswith(".")
    assert len(summary) <= LONGEST_SUMMARY
    assert f"{words[-1]} " in run(*words[:-1], "-h").stdout
    assert f" {summary}\n" in run(*words[:-1], "-h").stdout


def test_the_usage_names_arguments_as_the_text_does() -> None:
    def usage(*words: str) -> str:
        return run(*words, "-h").stdout.splitlines()[0]

    assert usage("extract") == "Usage: fungi extract SOURCE STORE [OPTIONS]"
    assert usage("search") == "Usage: fungi search STORE [QUERY...] [OPTIONS]"
    assert usage("models") == "Usage: fungi models [PATTERN] [OPTIONS]"
    assert usage("eval") == "Usage: fungi eval [OPTIONS] COMMAND [ARGS]..."


def test_the_version_is_that_of_the_package_and_of_what_results_depend_on() -> None:
    shown = run("--version")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[0] == f"fungi {metadata.version('fungistore')}"
    for name in ("torch", "timm", "zarr"):
        assert f"\n{name} {metadata.version(name)}\n" in shown.stdout
    assert run("version").stdout == shown.stdout


@pytest.mark.parametrize("words", [[], ["extract"], ["eval", "knn"]], ids=" ".join)
def test_help_is_what_help_gives(words: list[str]) -> None:
    """`fungi help extract` is what some type for `fungi extract --help`."""
    assert run("help", *words).stdout == run(*words, "--help").stdout


@pytest.mark.parametrize(
    ("words", "where", "hint"),
    [
        (["extrac"], "fungi", "fungi extract --help"),
        (["eval", "lineer"], "fungi eval", "fungi eval linear --help"),
        (["help", "zzzz"], "fungi", "fungi --help"),
    ],
)
def test_a_word_that_is_no_command_is_answered_with_those_that_are(
    words: list[str], where: str, hint: str
) -> None:
    refused = run(*words)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(
        f"error: no such command\n  where: {where}\n  expected: one of"
    )
    assert f"  try: {hint}\n" in refused.stderr
