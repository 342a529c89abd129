"""Sources of texts: tables, files of lines, folders, standard input, Hugging Face's files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from feature_world import write_block
from fungistore.errors import TextError, UsageError
from fungistore.extraction.recognition import Recognition
from fungistore.location import shortened
from fungistore.machine.context import DEFAULT
from fungistore.modalities.modality import find_modality
from fungistore.modalities.reading import read_item, read_text_of
from fungistore.modalities.text.texts import MOST_BYTES
from fungistore.searching.queries import ItemQuery, SampleQuery, TextQuery, identify, identify_texts
from fungistore.sources.manifest import MOST_INLINE
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Source, columns_of, source_remarks
from fungistore.store.listing import SourceChanges, add_source
from fungistore.store.store import Store

TEXTS = find_modality("text")
LONG = "a longer text, " * (MOST_INLINE // 14)


def source_of(path: object, stdin: bytes | None = None) -> Source:
    stream = None if stdin is None else io.BytesIO(stdin)
    return open_source(str(path), stream, modality="text")


def texts(source: Source) -> list[str | None]:
    """The texts of all samples, None of those that have none."""
    return [read_text_of(TEXTS, source.root, sample.uri) for sample in source]


def facts(source: Source) -> list[tuple[str | None, str | None, str | None]]:
    """Text, label and split of all samples."""
    found = zip(texts(source), source, strict=True)
    return [(text, sample.label, sample.split) for text, sample in found]


ROWS = [
    {"text": "first, with a comma", "label": "pos", "split": "train", "stars": 5},
    {"text": 'a "quoted"\nsecond', "label": "neg", "split": "test", "stars": 1},
    {"text": LONG, "label": "pos", "split": "val", "stars": None},
    {"text": "ünï 你好 🙂", "label": None, "split": "train", "stars": 3},
]


def write_csv(path: Path, delimiter: str = ",") -> Path:
    quoted = [
        delimiter.join('"' + ("" if v is None else str(v)).replace('"', '""') + '"' for v in one)
        for one in [ROWS[0].keys(), *(row.values() for row in ROWS)]
    ]
    path.write_text("\n".join(quoted), encoding="utf-8")
    return path


def write_jsonl(path: Path) -> Path:
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n", encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    parquet.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", write_csv),
        ("t.tsv", lambda path: write_csv(path, "\t")),
        ("T.JSONL", write_jsonl),
        ("t.ndjson", write_jsonl),
        ("t.parquet", write_parquet),
    ],
)
def test_a_table_of_texts(tmp_path: Path, name: str, write: Callable[[Path], Path]) -> None:
    """Whatever its format: texts, labels, splits, further columns, and names that stay.

    A text of pages is found again in the table, and does not stand in the store's.
    """
    source = source_of(write(tmp_path / name))
    expected = [(row["text"].strip(), row["label"], row["split"]) for row in ROWS]
    assert facts(source) == expected
    assert source.label_names() == ["neg", "pos"]
    assert columns_of(source) == {"stars": "int"}
    assert [sample.cells for sample in source] == [(5,), (1,), (None,), (3,)]
    assert [sample.uri.startswith("data:,") for sample in source] == [True, True, False, True]
    assert len({sample.id for sample in source}) == 4
    backwards = [read_item(TEXTS, source.root, s.uri) for s in reversed(list(source))]
    assert backwards == [one for one, _, _ in reversed(expected)]


def test_ids_are_the_same_in_all_formats(tmp_path: Path) -> None:
    """A text without an id is named by what it says, so another format changes nothing."""
    sources = [write_csv(tmp_path / "t.csv"), write_jsonl(tmp_path / "t.jsonl")]
    names = {tuple(sample.id for sample in source_of(one)) for one in sources}
    assert len(names) == 1


@pytest.mark.parametrize("name", ["sentence", "Review Text", "CONTENT", "tweet"])
def test_names_of_columns_of_texts(tmp_path: Path, name: str) -> None:
    """Other names than `text` are known, in any case."""
    (tmp_path / "t.csv").write_text(f"{name},label\nhello,a\n")
    assert facts(source_of(tmp_path / "t.csv")) == [("hello", "a", None)]


def test_labels_of_texts_have_names_of_their_own(tmp_path: Path) -> None:
    """`sentiment` and its like are labels beside a text; in a table of images they are columns."""
    (tmp_path / "t.csv").write_text("review,sentiment\nhello,good\n")
    assert facts(source_of(tmp_path / "t.csv")) == [("hello", "good", None)]
    (tmp_path / "i.csv").write_text("path,sentiment\na.jpg,good\n")
    (image,) = open_source(tmp_path / "i.csv")
    assert (image.label, image.cells) == (None, ("good",))


def test_a_choice_of_columns_is_told(tmp_path: Path) -> None:
    """Of two columns that may be the text, the first of the known names is, and a line says so."""
    (tmp_path / "t.jsonl").write_text('{"sentence": "no", "text": "yes", "label": 1}\n')
    source = source_of(tmp_path / "t.jsonl")
    assert facts(source) == [("yes", "1", None)]
    assert source_remarks(source) == ["the text is column 'text', not 'sentence'"]


def test_a_table_without_texts_says_what_is_wanted(tmp_path: Path) -> None:
    """The error names columns that would do."""
    (tmp_path / "t.csv").write_text("who,stars\nme,3\n")
    with pytest.raises(UsageError) as caught:
        list(source_of(tmp_path / "t.csv"))
    assert "`path` or `text` or `sentence`" in str(caught.value.expected)
    assert caught.value.found == "who, stars"


def test_rows_of_json_have_any_keys(tmp_path: Path) -> None:
    """Columns are all keys of all lines; what a line lacks is empty, lists are left out."""
    lines = [
        {"text": "a", "label": True, "n": 1},
        {"n": 2.5, "text": "b", "id": "mine", "tags": ["x"]},
        {"label": False, "when": 10**30},
        {"text": None, "deep": {"text": "c"}},
        {"text": 7},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = source_of(tmp_path / "t.jsonl")
    assert facts(source) == [
        ("a", "true", None),
        ("b", None, None),
        (None, "false", None),
        (None, None, None),
        ("7", None, None),
    ]
    assert columns_of(source) == {"n": "float", "when": "text"}
    assert [sample.cells for sample in source][:3] == [
        (1.0, None),
        (2.5, None),
        (None, f"1{'0' * 30}"),
    ]
    assert "'tags', 'deep'" in source_remarks(source)[-1]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"text": "cut of', "Unterminated string"),
        ("[1, 2]", "a list"),
        ('"bare"', "a str"),
        ("text,label", "Expecting value, at character 1"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_broken_line_of_json_is_named(tmp_path: Path, line: str, found: str) -> None:
    """With its number, what is wrong with it, and how to go on without it."""
    (tmp_path / "t.jsonl").write_text(f'{{"text": "a"}}\n\n{line}\n{{"text": "b"}}\n')
    with pytest.raises(UsageError) as caught:
        list(source_of(tmp_path / "t.jsonl"))
    assert str(caught.value.where).endswith("t.jsonl, line 3")
    assert found in str(caught.value.found)
    assert "sed '3d'" in str(caught.value.hint)


def test_json_lines_list_images(tmp_path: Path) -> None:
    """They are a manifest of any modality: of paths, too."""
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "m.jsonl").write_text('{"file": "a.jpg", "label": "cat", "score": 0.5}\n')
    (sample,) = open_source(tmp_path / "m.jsonl")
    assert (sample.id, sample.uri, sample.label, sample.cells) == ("a.jpg", "a.jpg", "cat", (0.5,))
    assert sample.bytes == 1


def test_lines_of_a_file(tmp_path: Path) -> None:
    """A .txt that is named as a source has a text on each line, and a line says so."""
    lines = ["one", "", " two \r", "one", LONG, "drei 🙂"]
    (tmp_path / "t.txt").write_text("\n".join(lines), encoding="utf-16", newline="")
    source = source_of(tmp_path / "t.txt")
    assert texts(source) == ["one", "two", "one", LONG.strip(), "drei 🙂"]
    ids = [sample.id for sample in source]
    assert ids[2] == f"{ids[0]}-2"
    assert source_remarks(source) == ["each line of t.txt is a text"]
    with pytest.raises(UsageError, match="images do not stand on lines"):
        open_source(f"lines:{tmp_path / 't.txt'}")


def test_standard_input_has_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One a line, or between NULs; but paths, if the first line is one of a file."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("from a file")
    source = source_of("-", "one\n\ntwo\r\nzwölf\none".encode())
    assert texts(source) == ["one", "two", "zwölf", "one"]
    assert source_remarks(source) == ["each line of standard input is a text"]
    assert texts(source_of("-", b"one\nmore\0two\0")) == ["one\nmore", "two"]
    assert texts(source_of("-", b"./a.txt\nb.txt\n")) == ["from a file", None]
    assert texts(source_of("-", b"a.txt is here\n")) == ["a.txt is here"]
    assert texts(source_of("-", b"")) == []


def test_a_folder_of_texts(tmp_path: Path) -> None:
    """Class folders are labels, and train and test above them splits, as of images."""
    for place in ("train/pos/1.txt", "train/neg/2.TXT", "test/pos/3.txt", "test/neg/x.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(f"in {place}\n")
    assert facts(source_of(tmp_path)) == [
        ("in test/pos/3.txt", "pos", "test"),
        ("in train/neg/2.TXT", "neg", "train"),
        ("in train/pos/1.txt", "pos", "train"),
    ]


# ------------------------------------------------------------------ Hugging Face's files


def described(features: Mapping[str, Any], **columns: list[Any]) -> pa.Table:
    """A table with the description that `datasets` writes into it."""
    kinds = {
        name: {"_type": "Value", "dtype": kind}
        if isinstance(kind, str)
        else {"_type": "ClassLabel", "names": kind}
        for name, kind in features.items()
    }
    document = {"info": {"features": kinds}}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(document)})


SETS: dict[str, tuple[pa.Table, list[tuple[str | None, str | None]], dict[str, str]]] = {
    "trec": (
        described(
            {"text": "string", "coarse_label": ["ABBR", "ENTY"], "fine_label": ["a:b", "e:c"]},
            text=["How far is it?", "Who?"],
            coarse_label=[1, 0],
            fine_label=[1, 0],
        ),
        [("How far is it?", "ENTY"), ("Who?", "ABBR")],
        {"fine_label": "text"},
    ),
    "banking77": (
        described({"text": "string", "label": ["age", "card"]}, text=["b", "a"], label=[1, 0]),
        [("b", "card"), ("a", "age")],
        {},
    ),
    "sst": (
        described(
            {"sentence": "string", "label": "float32", "tokens": "string"},
            sentence=["good", ""],
            label=pa.array([0.75, 0.25], pa.float32()),
            tokens=["g|d", ""],
        ),
        [("good", None), (None, None)],
        {"label": "float", "tokens": "text"},
    ),
    "tweets": (
        described({"text": "string", "label": ["❤", "😍"]}, text=["x @user", "y"], label=[1, -1]),
        [("x @user", "😍"), ("y", None)],
        {},
    ),
    "imdb with paths": (
        described(
            {"path": "string", "text": "string", "label": ["n"]},
            path=["pos/1.txt"],
            text=["film"],
            label=[0],
        ),
        [("film", "n")],
        {"path": "text"},
    ),
    "several without a description": (pa.table({"text": ["a"], "label": [7]}), [("a", "7")], {}),
}


@pytest.mark.parametrize("name", SETS)
def test_parquet_of_the_hub(tmp_path: Path, name: str) -> None:
    """A folder of them: texts, classes' names, splits by the files' names, further columns."""
    table, expected, columns = SETS[name]
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        parquet.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    source = source_of(tmp_path)
    both = [(*one, split) for split in ("test", "train") for one in expected]
    assert facts(source) == both
    assert columns_of(source) == columns
    assert next(iter(source)).id == "data/test-00000-of-00001.parquet/0"
    assert "texts are in column" in source_remarks(source)[0]


def test_one_parquet_file_of_the_hub_has_names_of_classes(tmp_path: Path) -> None:
    """A description is believed, of one file too; without one it is a manifest."""
    parquet.write_table(SETS["banking77"][0], tmp_path / "test.parquet")
    assert facts(source_of(tmp_path / "test.parquet")) == [
        ("b", "card", "test"),
        ("a", "age", "test"),
    ]
    parquet.write_table(pa.table({"text": ["a"], "label": [7]}), tmp_path / "plain.parquet")
    assert facts(source_of(tmp_path / "plain.parquet")) == [("a", "7", None)]


def test_a_saved_dataset_of_texts(tmp_path: Path) -> None:
    """The Arrow streams of `save_to_disk`, whose description is beside them."""
    table = SETS["banking77"][0]
    with pa.ipc.new_stream(tmp_path / "data.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": features}))
    assert facts(source_of(tmp_path)) == [("b", "card", None), ("a", "age", None)]
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UsageError, match="no column of the table holds images") as caught:
        list(open_source(tmp_path))
    assert "image" in str(caught.value.expected)


# ------------------------------------------------------------------ texts that have changed


def listed(store: Store, path: Path, *, update: bool = False) -> SourceChanges:
    source = source_of(path)
    recognition = Recognition(store, source.root, DEFAULT)
    return add_source(store, source, "text", update=update, same_content=recognition)


@pytest.mark.parametrize("kind", ["csv", "hub"])
def test_a_changed_text_is_seen_by_a_later_listing(tmp_path: Path, kind: str) -> None:
    """By its content, since a row has no time: the same id with another text is made anew.

    Rows of a file that was written anew and say what they said are known again.
    """

    def write(*rows: tuple[str, str]) -> Path:
        path = tmp_path / f"t.{'parquet' if kind == 'hub' else kind}"
        if kind == "csv":
            path.write_text("id,text\n" + "".join(f'{name},"{text}"\n' for name, text in rows))
        else:
            parquet.write_table(
                described({"text": "string"}, text=[text for _, text in rows]), path
            )
        return path

    store = Store.open_or_create(tmp_path / "s.fungi")
    rows = [("a", "one"), ("b", "two"), ("c", LONG), ("d", f"{LONG}!")]
    assert listed(store, write(*rows)).added == 4
    write_block(store, "set", "embeddings", np.zeros((4, 2), np.float32))
    note_digests(store)
    assert listed(store, write(*rows)).changed == 0
    rows[1], rows[3] = ("b", "twö"), ("d", f"{LONG}?")
    path = write(*rows)
    assert listed(store, path).changed == 2
    found = listed(store, path, update=True)
    assert (found.changed, found.changed_rows.tolist(), found.added) == (2, [1, 3], 0)
    assert {failure.row for failure in store.failures()} == {1, 3}
    known = store.samples.rows(0, 4)
    assert [read_text_of(TEXTS, row["root"], row["uri"]) for row in known] == [
        text.strip() for _, text in rows
    ]


def note_digests(store: Store) -> None:
    """What extraction notes of the items that rows were made from."""
    from fungistore.modalities.reading import digest_item
    from fungistore.store.item_digests import ItemDigests

    rows = store.samples.rows(0, len(store.samples))
    digests = np.array([digest_item(row["root"], row["uri"]) for row in rows], np.uint64)
    ItemDigests(store.backend, "set").replace(0, range(len(rows)), digests, len(rows))


# ------------------------------------------------------------------ what a query means


def test_a_query_of_a_store_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample's id, then a file, else the text itself; --text is always the text itself."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("id,text\nnotes,the first\ncat,the second\n")
    Path("notes").write_text("in a file")
    Path("dog").write_text("of a dog")
    store = Store.open_or_create("s.fungi")
    listed(store, Path("t.csv"))
    asked = ["notes", "the second", "dog", "a cat", "x.txt", "b/c.jpg", "./", " "]
    by_id, known, file, new, *wrong = identify(store, asked)
    assert by_id == SampleQuery("notes", 0)
    assert isinstance(known, ItemQuery)
    assert (known.row, known.views) == (1, "cat")
    assert isinstance(file, ItemQuery)
    assert read_item(TEXTS, file.root, file.uri) == "of a dog"
    assert isinstance(new, ItemQuery)
    assert (new.row, new.uri) == (None, "data:,a%20cat")
    assert all(isinstance(one, UsageError) for one in wrong)
    (said,) = identify_texts(store, ["notes"])
    assert isinstance(said, ItemQuery)
    assert (said.row, said.uri) == (None, "data:,notes")


def test_a_file_that_is_no_text_is_refused_as_a_query(tmp_path: Path) -> None:
    """An image given to a store of texts: an error that says so, and no sentence."""
    (tmp_path / "t.csv").write_text("id,text\na,b\n")
    store = Store.open_or_create(tmp_path / "s.fungi")
    listed(store, tmp_path / "t.csv")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    (query,) = identify(store, [str(tmp_path / "a.jpg")])
    assert isinstance(query, ItemQuery)
    with pytest.raises(TextError, match="no text in UTF-8") as caught:
        read_item(TEXTS, query.root, query.uri)
    assert "iconv" in str(caught.value.hint)


def test_a_sentence_asked_of_images_is_refused(tmp_path: Path) -> None:
    """The error says that the store has images, and what finds those by words."""
    (tmp_path / "m.jsonl").write_text('{"path": "a.jpg"}\n')
    store = Store.open_or_create(tmp_path / "s.fungi")
    add_source(store, open_source(tmp_path / "m.jsonl"))
    (wrong,) = identify(store, ["a cat on a mat"])
    assert isinstance(wrong, UsageError)
    assert "neither an image file nor a sample id" in wrong.what
    assert "the store has images" in str(wrong.hint)
    assert identify_texts(store, ["a cat"]) == [TextQuery("a cat")]


def test_messages_show_texts_as_they_read() -> None:
    """The beginning of an inline text on one line, with nothing that steers a terminal."""
    text = "first\nsecond \u202e\x1b[2J " + "x" * 100
    from fungistore.location import inline_uri

    shown = shortened(inline_uri(text.encode()))
    assert shown.startswith(r"'first second \u202e\x1b[2J xxx")
    assert shown.isprintable()
    assert len(shown) < 120
    assert shortened("a/b.txt") == "a/b.txt"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbf plain \r\nlines\r\n", "plain \nlines"),
        ("ünï".encode("utf-16"), "ünï"),
        ("ünï".encode("utf-32"), "ünï"),
        (b"one \0 NUL among many", "one \0 NUL among many"),
        ("ä".encode() * MOST_BYTES, "ä" * (MOST_BYTES // 2)),
        (b"x" + "你".encode() * MOST_BYTES, "x" + "你" * ((MOST_BYTES - 1) // 3)),
        (b"caf\xe9", TextError),
        (b"a\0b\0c\0", TextError),
        (b"\0" * 10, TextError),
        (b" \n\t ", TextError),
        ("\u200b\u202e\ufeff ".encode(), TextError),
        (b"\xff\xfe\0", TextError),
    ],
)
def test_bytes_become_a_text(data: bytes, expected: str | type[TextError]) -> None:
    """UTF-8, or any UTF with its mark, its first MiB; else an error of that input alone."""
    if isinstance(expected, str):
        assert TEXTS.read(io.BytesIO(data)) == expected
        return
    with pytest.raises(expected):
        TEXTS.read(io.BytesIO(data))
