"""Texts that somebody made to do harm: longer than memory, no text at all, or steering a screen."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile_world import assert_tame, document, fungi
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hostile_page import Strict

from feature_world import write_block
from fungistore.errors import UsageError
from fungistore.modalities.modality import find_modality
from fungistore.modalities.reading import read_text_of
from fungistore.modalities.text.texts import MOST_BYTES
from fungistore.sources.long_cells import CellCutter, cut
from fungistore.sources.opening import open_source
from fungistore.store.listing import add_source
from fungistore.store.store import Store

TEXTS = find_modality("text")
HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07 plain\r\nerror: forged\n next",
    "gpj.\u202eexe\u2066 \u200f turned",
    "<script>alert(1)</script><img src=x onerror=alert(1)> & 'quoted\"",
    "a\0NUL, \x9b31m and \u2028 a line \u2029 separator",
    "[red]markup[/red] :smile: {{7*7}}",
    "=cmd|' /C calc'!A0",
    "مرحبا עולם 你好 👩‍👩‍👧",
]


def texts(path: object, stdin: bytes | None = None) -> list[str | None]:
    source = open_source(str(path), stdin and io.BytesIO(stdin), modality="text")
    return [read_text_of(TEXTS, source.root, sample.uri) for sample in source]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of hostile texts with an index."""
    rows = [{"id": f"t{n}", "text": text, "label": f"l{n % 2}"} for n, text in enumerate(HOSTILE)]
    rows.append({"id": "long", "text": "word " * 2000, "label": "l0"})
    rows.append({"id": "empty", "text": " ", "label": "l0"})
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    opened = Store.open_or_create(tmp_path / "s.fungi")
    add_source(opened, open_source(tmp_path / "t.jsonl", modality="text"), "text")
    vectors = np.random.default_rng(0).normal(size=(len(rows), 4)).astype(np.float32)
    write_block(opened, "set", "embeddings", vectors)
    assert fungi("index", tmp_path / "s.fungi").exit_code == 0
    return tmp_path / "s.fungi"


def test_answers_show_texts_that_steer_nothing(store: Path, tmp_path: Path) -> None:
    """In the terminal a line of each beside its id; whole with --json; on the page as text."""
    done = fungi("search", store, "t0", "--k", 8, "--html", tmp_path / "p.html")
    assert_tame(done)
    lines = done.stdout.splitlines()
    assert lines[1].startswith(r"\x1b[2J\x1b]0;owned\x07 plain error: forged next")
    assert lines[2].split() == ["rank", "1", "-", "cosine", "label", "text", "id"]
    shown = {line.split()[-1]: line for line in lines[3:]}
    assert r"gpj.\u202eexe\u2066 \u200f turned" in shown["t1"]
    assert r"a\x00NUL, \x9b31m and a line separator" in shown["t3"]
    assert "[red]markup[/red] :smile:" in shown["t4"]
    assert shown["long"].count("word") == 16
    assert " - " in shown["empty"]
    found = document(fungi("search", store, "t0", "--k", 8, "--json"))["answers"][0]
    whole = {one["id"]: one.get("text") for one in found["neighbours"]}
    assert whole["t1"] == HOSTILE[1]
    assert whole["long"] == ("word " * 2000).strip()
    assert whole["empty"] is None
    assert found["sample"]["text"] == HOSTILE[0].replace("\r\n", "\n")
    page = (tmp_path / "p.html").read_text()
    parser = Strict()
    parser.feed(page)
    said = "\n".join(parser.texts)
    assert "<script>alert(1)</script>" in said
    assert r"gpj.\u202eexe" in said
    assert "👩‍👩‍👧" in said
    assert not {"\u202e", "\u2066", "\0", "\x1b"} & set(page)
    assert "text cannot be read" in page


def test_a_query_that_steers_is_told_tamely(store: Path) -> None:
    """In what is said of one that cannot be answered."""
    done = fungi("search", store, "t0", "\x1b[2J\u202e.txt", "\n", "--k", 1)
    assert done.exit_code == 3
    assert_tame(done)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.txt", "-"])
def test_bad_bytes_are_one_input_that_failed(tmp_path: Path, name: str) -> None:
    """Neither a byte that is no UTF-8 nor an empty cell ends a run, and NULs are kept."""
    cells = [b"fine", b"caf\xe9 \x80", b" ", b"a\0b, fine too", "ünï".encode()]
    if name == "t.csv":
        data = b"text,label\n" + b"".join(b'"%s",a\n' % cell for cell in cells)
    elif name == "t.jsonl":
        data = b"\n".join(b'{"text": "%s", "n": 1}' % cell for cell in cells)
        data = data.replace(b"\0", b"\\u0000")
    else:
        data = b"\n".join(cells)
    if name == "-":  # where a NUL is what parts texts
        found = texts("-", data.replace(b"\0", b""))
    else:
        (tmp_path / name).write_bytes(data)
        found = texts(tmp_path / name)
    expected: list[str | None] = ["fine", None, None, "a\0b, fine too", "ünï"]
    if name == "-":
        expected[3] = "ab, fine too"
    if not name.startswith("t.c") and not name.startswith("t.j"):
        del expected[2]  # a blank line is none
    assert found == expected


def test_halves_of_emoji_in_json(tmp_path: Path) -> None:
    """Lone surrogates, as of a text that was cut, are replaced, and whole pairs are not."""
    lines = [r'{"text": "cut \ud83d"}', r'{"text": "\udc80 \ud83d\ude42", "\ud800": "x"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert texts(tmp_path / "t.jsonl") == ["cut \ufffd", "\ufffd 🙂"]


def test_the_same_text_many_times(tmp_path: Path) -> None:
    """Each is a sample of its own, and keeps its name when others come."""
    (tmp_path / "t.txt").write_text("same\n" * 5 + "other\n" + "same\n")
    source = open_source(tmp_path / "t.txt", modality="text")
    ids = [sample.id for sample in source]
    assert len(set(ids)) == 7
    assert [one.rpartition("-")[2] for one in ids[1:5]] == ["2", "3", "4", "5"]


# ------------------------------------------------------------------ cells of any length

CELL = st.text(st.sampled_from('ab"\\,\n\t é你🙂'), max_size=30)


def fed(cutter: CellCutter, data: bytes, step: int) -> bytes:
    pieces = [cutter.feed(data[at : at + step]) for at in range(0, len(data), step)]
    return b"".join([*pieces, cutter.feed(b"", is_last=True)])


@settings(max_examples=30)
@given(st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=5), st.integers(1, 9))
def test_cells_of_csv_are_cut_in_any_pieces(rows: list[list[str]], step: int) -> None:
    """Quotes, delimiters and line breaks in cells included; cells that are short stay."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = text.getvalue().encode()
    assert fed(CellCutter(b","), data, step) == data
    kept = fed(CellCutter(b",", 10), data, step).decode()
    for row, own in zip(csv.reader(io.StringIO(kept, newline="")), rows, strict=True):
        for cell, whole in zip(row, own, strict=True):
            assert whole.startswith(cell)
            spelled = whole.replace('"', '""').encode()
            assert cell == whole if len(spelled) <= 10 else len(cell.encode()) >= 3


@settings(max_examples=30)
@given(st.dictionaries(CELL, CELL | st.lists(CELL)), st.integers(1, 9), st.booleans())
def test_strings_of_json_are_cut_in_any_pieces(
    row: dict[str, object], step: int, ascii: bool
) -> None:
    """Escapes and characters stay whole, and what is no string stays as it is."""
    data = json.dumps(row, ensure_ascii=ascii).encode()
    assert fed(CellCutter(), data, step) == data
    for cell in json.loads(fed(CellCutter(None, 16), data, step)).values():
        assert not isinstance(cell, str) or len(cell.encode(errors="replace")) <= 16


@given(st.binary(max_size=40), st.integers(0, 30))
def test_any_bytes_are_cut(data: bytes, most: int) -> None:
    """No more than a length stays, and of UTF-8 no part of a character."""
    assert len(cut(data, most)) <= most
    assert data.startswith(cut(data, most))
    text = data.decode("latin-1")
    assert cut(text.encode(), most).decode() in text


def test_long_lines_are_cut(tmp_path: Path) -> None:
    """The first MiB of a cell is kept, and what follows it in the table is read."""
    word = "wörd, "
    long = word * (3 * MOST_BYTES // 7)
    (tmp_path / "t.csv").write_text(f'text,label\na,x\n"{long}",y\nb,z\n')
    assert_is_cut(texts(tmp_path / "t.csv"), long)
    (tmp_path / "plain.csv").write_text(f"text\tlabel\na\tx\n{long}\ty\nb\tz\n")
    assert_is_cut(texts(tmp_path / "plain.csv"), long)
    (tmp_path / "blanks.csv").write_text(f'text, label\na, "x"\n"{long}", "y"\nb, z\n')
    assert_is_cut(texts(tmp_path / "blanks.csv"), long)
    table = f"text;n\r\na;1\r\n{long};2\r\nb;3\r\n"
    (tmp_path / "utf16.csv").write_bytes(table.encode("utf-16"))
    assert_is_cut(texts(tmp_path / "utf16.csv"), long)
    (tmp_path / "t.txt").write_text(f"a\n{long}\nb")
    assert_is_cut(texts(tmp_path / "t.txt"), long)
    rows = [{"text": one, "n": 1} for one in ("a", long, "b")]
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    )
    assert_is_cut(texts(tmp_path / "t.jsonl"), long)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_label_is_never_cut(tmp_path: Path, name: str) -> None:
    """Two that differ in their ends would be one: a label of MiBs is refused instead."""
    label = "x" * (2 * MOST_BYTES)
    row = (
        f'text,label\na,"{label}"\n'
        if name == "t.csv"
        else json.dumps({"text": "a", "label": label})
    )
    (tmp_path / name).write_text(row)
    with pytest.raises(UsageError, match="too long") as caught:
        texts(tmp_path / name)
    assert str(caught.value.where).endswith(f"{name}, column label")


def assert_is_cut(found: list[str | None], long: str) -> None:
    first, text, last = found
    assert (first, last) == ("a", "b")
    assert text is not None
    assert long.startswith(text)
    assert MOST_BYTES - 8 <= len(text.encode()) <= MOST_BYTES


READ = """
import re, sys
from fungistore.modalities.modality import find_modality
from fungistore.modalities.reading import read_text_of
from fungistore.sources.opening import open_source
texts, path = find_modality("text"), sys.argv[1]
if path == "-":
    source = open_source(path, sys.stdin.buffer, modality="text")
else:
    source = open_source(path, modality="text")
lengths = [len(read_text_of(texts, source.root, sample.uri)) for sample in source]
# not getrusage's: that is of the process which this one was forked from, too
with open("/proc/self/status") as status:
    print(lengths, re.search("VmHWM:\\s*([0-9]+)", status.read())[1])
"""
SPELLED: dict[str, Callable[[str], tuple[str, str, str]]] = {
    "t.csv": lambda word: ('text,label\na,x\n"', word.replace('"', '""'), '",y\nb,z\n'),
    "plain.csv": lambda word: ("text\tlabel\na\tx\n", word.replace('"', ""), "\ty\nb\tz\n"),
    "t.jsonl": lambda word: (
        '{"text": "a"}\n{"text": "',
        word.replace('"', '\\"'),
        '"}\n{"text": "b"}',
    ),
    "t.txt": lambda word: ("a\n", word, "\nb\n"),
    "-": lambda word: ("a\n", word, "\nb\n"),
    "folder/long.txt": lambda word: ("", word, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPELLED)
def test_a_line_of_100_mb_takes_no_memory(tmp_path: Path, name: str) -> None:
    """Of 100 MB on one line a process holds a fraction, whatever they stand in."""
    before, word, after = SPELLED[name]('a "wörd" ')
    path = tmp_path / ("stdin.txt" if name == "-" else name)
    path.parent.mkdir(exist_ok=True)
    block = word * 10_000
    with path.open("w", encoding="utf-8") as file:
        file.write(before)
        for _ in range(100_000_000 // len(block.encode())):
            file.write(block)
        file.write(after)
    with path.open("rb") as stdin:
        asked = "-" if name == "-" else path.parent if "folder" in name else path
        command = [sys.executable, "-c", READ, str(asked)]
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=True)
    lengths, peak = done.stdout.rsplit(" ", 1)
    assert len(json.loads(lengths)) == (1 if "folder" in name else 3)
    assert int(peak) < 350_000, done.stdout  # KiB, of which the interpreter and Arrow are 80,000
