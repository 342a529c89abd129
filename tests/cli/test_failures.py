"""Inputs that cannot be read: who they are, why, and what tries them again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fungi_cli.main import app
from fungi_cli.output import printable
from fungi_cli.shell import command_line
from typer.testing import CliRunner, Result

from fungistore.store.failed import failed_inputs
from fungistore.store.failures import FAILURES, Failure
from fungistore.store.store import Store
from tiny_world import TINY

BROKEN = 7


def fungi(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def broken(images: Path, tmp_path: Path, tiny_weights: Path) -> list[object]:
    """An extraction of 12 cats, 12 dogs, and 7 files that are no images."""
    for number in range(BROKEN):
        (images / "cat" / f"x {number}.jpg").write_text("no image")
    return [
        *("extract", images, tmp_path / "s.fungi", "--model", TINY, "--weights", tiny_weights),
        *("--image-size", 32, "--features", "embeddings", "--unit-rows", 8),
    ]


def test_the_first_failures_are_named_with_what_retries_them(
    broken: list[object], images: Path, tmp_path: Path
) -> None:
    """Five are named at the end with path and reason; the printed command mends what it can."""
    done = fungi(*broken, "--restart")
    assert done.exit_code == 3
    lines = done.stderr.splitlines()
    named = lines[lines.index("failed inputs:") + 1 :][:7]
    reason = "ImageError: the content is not an image in a known format"
    assert named[:5] == [f"  {images}/cat/x {number}.jpg: {reason}" for number in range(5)]
    assert named[5] == f"  and 2 more: fungi status {tmp_path}/s.fungi --failures"
    words = shlex.split(named[6].removeprefix("to try again what failed: "))
    assert words == ["fungi", *map(str, broken), "--retry-failed"]
    for number in range(BROKEN - 1):
        shutil.copy(images / "dog" / "001.jpg", images / "cat" / f"x {number}.jpg")
    again = fungi(*words[1:])
    assert again.exit_code == 3
    assert "6 rows made anew, 1 cannot be read" in again.stderr
    assert f"failed input:\n  {images}/cat/x 6.jpg: {reason}\nto try" in again.stderr
    shutil.copy(images / "dog" / "001.jpg", images / "cat" / "x 6.jpg")
    mended = fungi(*words[1:])
    assert (mended.exit_code, "failed input" in mended.stderr) == (0, False)


def test_the_retry_reaches_files_that_begin_like_options(
    broken: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `--` there are no options, and the next step's store is none either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").rename(tmp_path / "-images")
    done = fungi("extract", *broken[3:], "--", "-images", "-s.fungi")
    assert done.exit_code == 3
    lines = done.stderr.splitlines()
    assert "  and 2 more: fungi status ./-s.fungi --failures" in lines
    assert "next: fungi status ./-s.fungi" in lines
    (line,) = [line for line in lines if line.startswith("to try again")]
    again = fungi(*shlex.split(line)[6:])
    assert "0 rows made anew, 7 cannot be read" in again.stderr
    assert fungi("status", "./-s.fungi", "--failures").exit_code == 0


def test_a_run_of_which_nothing_could_be_read_says_so(
    broken: list[object], images: Path, tmp_path: Path
) -> None:
    """It has failed, in its own words, with what the paths have in common; a part of it has not."""
    (tmp_path / "m.csv").write_text("path,label\nimages\\cat\\000.jpg,cat\n")
    done = fungi("extract", tmp_path / "m.csv", *broken[2:], "--json")
    assert done.exit_code == 1
    *_, said, hint = done.stderr.splitlines()
    assert said == "failed: no input could be read, of 1"
    assert "slashes instead of backslashes: 'images/cat/000.jpg'" in hint
    document = json.loads(done.stdout)
    assert document["cause"] in hint
    assert document["understood"]["samples"] == 1
    assert "1 image, 1 class" in fungi("status", tmp_path / "s.fungi").stdout


def test_a_shell_reads_every_name_back(tmp_path: Path) -> None:
    """Spaces, quotes, line breaks, escapes and odd bytes: printed on one line, and the same."""
    odd = ["a b", "it's", "a\nb", "a\x1b[31m7", "tab\t'\\", os.fsdecode(b"\xff1"), "\u202e\u00e9"]
    line = command_line([sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *odd])
    assert printable(line) == line
    read = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert read.stdout == ascii(odd) + "\n"


def test_every_failure_is_listed(broken: list[object], images: Path, tmp_path: Path) -> None:
    """`fungi status --failures` has them all, as text and as JSON, and Python yields the same."""
    store = tmp_path / "s.fungi"
    first = json.loads(fungi(*broken, "--json").stdout)["failures"]
    document = json.loads(fungi("status", store, "--failures", "--json").stdout)
    assert document["store"] == str(store)
    assert document["failures"] == [one.to_json() for one in failed_inputs(store)]
    assert document["failures"][:5] == first
    assert [one["id"] for one in document["failures"]] == [f"cat/x {n}.jpg" for n in range(BROKEN)]
    assert {one["feature_set"] for one in document["failures"]} == {TINY}
    table = fungi("status", store, "--failures").stdout.splitlines()
    assert len(table) == 1 + BROKEN
    assert f"cat/x 6.jpg  {images}/cat/x 6.jpg  ImageError" in table[-1]


def test_a_store_without_failures_says_so(broken: list[object], tmp_path: Path) -> None:
    """No failures are an empty list; a store that is not there is an error and nothing else."""
    fungi(*broken, "--limit", 8)
    shown = fungi("status", tmp_path / "s.fungi", "--failures")
    assert (shown.exit_code, shown.stdout) == (0, "no failed inputs\n")
    listed = fungi("status", tmp_path / "s.fungi", "--failures", "--json").stdout
    assert json.loads(listed)["failures"] == []
    missing = fungi("status", tmp_path / "none.fungi", "--failures", "--json")
    assert (missing.exit_code, list(json.loads(missing.stdout))) == (2, ["error", "exit_code"])


@pytest.mark.parametrize(
    "damage", [{"uri": 5}, {"uri": None}, {"error": None}, {"message": ["x"]}, {"row": True}]
)
def test_a_line_of_other_values_is_none(tmp_path: Path, damage: dict[str, object]) -> None:
    """It is passed over as one that was cut short is; those about it are told."""
    store = Store.open_or_create(tmp_path / "s.fungi")
    line = {"row": 0, "uri": "a.jpg", "error": "E", "message": "m", "feature_set": "set"}
    lines = [line | damage, line | {"row": 1}]
    (store.root / FAILURES).write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert [one.row for one in failed_inputs(store.root)] == [1]
    assert [one.row for one in store.failures()] == [1]


def test_failures_are_read_line_by_line(tmp_path: Path) -> None:
    """A sorted file is read a line at a time; one that a kill left unsorted says the same."""
    store = Store.open_or_create(tmp_path / "s.fungi")
    notes = [Failure(row, f"{row}.jpg", "ImageError", "cut short", "set") for row in range(4)]
    assert list(store.each_failure()) == []
    store.add_failures([notes[2], notes[0], notes[3], notes[2]])
    assert list(store.each_failure()) == store.failures() == [notes[0], notes[2], notes[3]]
    store.compact_failures()
    with (store.root / FAILURES).open("ab") as file:
        file.write(b'{"row": 9, "uri"')
    assert list(store.each_failure()) == store.failures() == [notes[0], notes[2], notes[3]]
    assert list(store.each_failure("set", 3)) == [notes[0], notes[2]]
    assert list(store.each_failure("other")) == []
    # rows that the table of samples does not have are told all the same
    assert [(one.row, one.id) for one in failed_inputs(store.root)] == [(0, ""), (2, ""), (3, "")]
