"""What goes to stdout, and what happens where it cannot: full, closed, or nobody reads any more."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fungi_cli import output
from fungi_cli.commands import status
from fungi_cli.main import COMMANDS, app
from fungi_cli.tables import show_table
from typer.testing import CliRunner

import fungistore as fungi
from feature_world import make_store

STORE = str(Path(__file__).parents[1] / "fixtures/store-2.0.fungi")
COMMAND_LINES = [*([name] for name in COMMANDS), *(["eval", name] for name in fungi.EVALUATIONS)]


def only_object(text: str) -> dict[str, object]:
    """The one JSON object that a text is."""
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_a_wrong_flag_is_one_json_object_too(words: list[str]) -> None:
    """For every command; the same is told on stderr."""
    run = CliRunner().invoke(app, [*words, "--no-such-flag", "--json"], prog_name="fungi")
    assert run.exit_code == 2
    document = only_object(run.stdout)
    assert document["exit_code"] == 2
    assert "--no-such-flag" in document["error"]["what"]
    assert document["error"]["where"] == " ".join(["fungi", *words])
    assert document["error"]["try"] == " ".join(["fungi", *words, "--help"])
    assert run.stderr.startswith("error: No such option: --no-such-flag")


@pytest.mark.parametrize(
    "words",
    [
        ["extrac", "a", "b"],
        ["eval", "knnn", STORE],
        ["eval"],
        [],
        ["status", STORE, "more"],
        ["search"],
        ["search", STORE],
        ["pca", STORE, "--dim", "x"],
        ["pca", STORE, "--config", "no-such-file.toml"],
        ["train-loff", STORE, "--epochs", "0"],
        ["predict", STORE],
        ["status"],
        ["status", "no-such-store.fungi"],
        ["verify", "no-such-store.fungi"],
        ["models", "no-such-model"],
        ["export", STORE, "x.txt"],
        ["import", "no-such-file.npy", "x.fungi"],
    ],
    ids=lambda words: " ".join(map(os.path.basename, words)) or "nothing",
)
def test_every_usage_error_is_one_json_object(words: list[str]) -> None:
    run = CliRunner().invoke(app, [*words, "--json"])
    assert run.exit_code == 2, run.stderr
    document = only_object(run.stdout)
    assert document["exit_code"] == 2
    assert document["error"]["what"]
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr


def test_a_flag_without_its_value_is_one_json_object() -> None:
    run = CliRunner().invoke(app, ["pca", STORE, "--json", "--dim"])
    assert (run.exit_code, only_object(run.stdout)["exit_code"]) == (2, 2)


def test_no_arguments_at_all_show_the_help_on_stderr() -> None:
    run = CliRunner().invoke(app, [])
    assert run.exit_code == 2
    assert run.stdout == ""
    assert "extract" in run.stderr
    assert run.stderr.startswith("Usage: ")


def test_control_c_is_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fungi, "status", interrupted)
    run = CliRunner().invoke(app, ["status", STORE, "--json"])
    assert run.exit_code == 130
    assert only_object(run.stdout)["exit_code"] == 130
    assert "interrupted" in run.stderr


def test_what_is_no_number_in_json_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    output.result_json({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "d": (2,)})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": [None, 1.5],
        "b": {"c": None},
        "d": [2],
    }


def ended(words: list[str]) -> int:
    """Run a command in this process, and return its exit code."""
    with pytest.raises(SystemExit) as stopped:
        app(words, prog_name="fungi")
    return stopped.value.code


@pytest.mark.parametrize(
    "words",
    [["status", STORE], ["status", STORE, "--json"], ["models", "vit_tiny*"], ["--help"]],
    ids=["tables", "json", "lines", "help"],
)
def test_a_full_disk_behind_stdout_is_told(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert ended(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the result cannot be written\n  where: standard output\n")
    assert "No space left on device" in said
    assert "Traceback" not in said


def test_a_full_disk_behind_stdout_does_not_hide_another_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert ended(["status", "no-such-store.fungi", "--json"]) == 2
    assert capsys.readouterr().err.startswith("error: not a fungi store")


@pytest.mark.parametrize("stream", ["full", "closed"])
def test_the_result_comes_where_stderr_takes_nothing(
    stream: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full if stream == "full" else None)
        assert ended(["models", "vit_tiny_patch16_224", "--json"]) == 0
        output.note("nobody hears this")
        output.note("nor this")
    assert only_object(capsys.readouterr().out)["models"]


def test_a_closed_stdout_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert ended(["status", STORE]) == 1
    assert "standard output is closed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"),
    [(["models", "vit_tiny*"], 0), (["status", STORE], 0), (["--help"], 0), (["verify", "."], 2)],
    ids=["lines", "tables", "help", "error"],
)
def test_a_reader_that_has_gone_changes_no_exit_code(
    words: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`fungi models | head -1` has done what it was asked; nothing is said of it."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert ended(words) == code
    said = capsys.readouterr().err
    assert "pipe" not in said.lower()
    assert "Traceback" not in said


def test_letters_that_a_terminal_lacks_are_escaped(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    with open(tmp_path / "latin", "w", encoding="latin-1") as latin:
        monkeypatch.setattr(sys, "stdout", latin)
        output.result("ä 猫")
    assert (tmp_path / "latin").read_bytes() == b"\xe4 \\u732b\n"


NAMES = [f"{number:05d}_" + "Animalia_Arthropoda_Arachnida_" * 4 for number in range(2)]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_names_of_any_length_hide_no_other_cell(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pipe a row is one line; on a terminal long names are folded, and nothing is cut."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    rows = [(str(rank), "0.1234", name, f"{name}/1.png") for rank, name in enumerate(NAMES)]
    words = ("label", "id")
    show_table(("rank", "1 - cosine", *words), rows, left=words, folded=words)
    lines = capsys.readouterr().out.splitlines()
    if is_terminal:
        assert max(map(len, lines[1:])) <= 80
        assert "…" not in "".join(lines)
        assert sum(line.count("Arthropoda") for line in lines) >= 6  # the others are folded
    else:
        assert [line.split() for line in lines[1:]] == [list(row) for row in rows]
    assert [line.split()[1] for line in lines if "0.1234" in line] == ["0.1234"] * 2


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_store_of_all_features_fits_a_small_terminal(
    is_terminal: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The arrays' table has 80 columns at most, and no line ends in blanks that would wrap."""
    names = ("embeddings", "gradients/dino", "norms/dino", "patches")
    store = make_store(tmp_path / "s.fungi", {"embeddings": np.ones((8, 4))}, ["x"] * 8)
    found = fungi.status(store.root)
    (group,) = found.feature_sets
    shapes = {"patches": (8, 16, 16, 384), "norms/dino": (8,)}
    arrays = [
        replace(group.arrays[0], name=name, shape=shapes.get(name, (8, 384)), bytes=999_900_000)
        for name in names
    ]
    found = replace(found, samples=999, feature_sets=(replace(group, arrays=tuple(arrays)),))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    status._show(found)
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    _, table = text.split("\narray ", 1)
    assert "16x16x384" in table
    assert max(map(len, table.splitlines())) <= 80
    assert not [line for line in text.splitlines() if line != line.rstrip()]
