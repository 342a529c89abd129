"""A modality that a plug-in adds: found, read, asked for and shown, without a change to ours."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungistore.errors import ItemError, MismatchError, UsageError
from fungistore.extraction.decoders import InProcesses
from fungistore.extraction.drawing import BASE, Drawer, draw_row
from fungistore.location import absolute_uri, inline_uri, locate, path_to_uri, uri_to_path
from fungistore.machine.children import python_command, python_environment
from fungistore.modalities.image.images import Images
from fungistore.modalities.modality import MODALITIES, Modality, find_modality, with_article
from fungistore.modalities.reading import read_item
from fungistore.searching.page import render_page
from fungistore.searching.queries import ItemQuery, SampleQuery, identify
from fungistore.searching.result import Answer, SearchResult
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Sample
from fungistore.store.listing import add_source
from fungistore.store.store import Store
from plugins import install, write_plugin

NUMBERS = '''
from html import escape

import numpy as np

from fungistore.errors import ItemError, UsageError
from fungistore.location import inline_uri


class NumberError(ItemError):
    pass


class Numbers:
    """Sequences of numbers, written with spaces between them."""

    name, item, items, error = "numbers", "sequence", "sequences", NumberError
    suffixes, columns = frozenset({"num"}), ("numbers", "values")

    def read(self, stream):
        words = stream.read().decode().split()
        if not words:
            raise ItemError("there are no numbers in it")
        return np.array([float(word) for word in words], np.float32)

    def blank(self):
        return np.zeros(1, np.float32)

    def query(self, text):
        if not text.replace(" ", "").isdigit():
            raise UsageError("these are no numbers", where=text)
        return inline_uri(text.encode())

    def show(self, item, caption):
        return f"<p title='{escape(caption)}'>{len(item)} numbers</p>"


class Whole:
    """The view that is the item itself."""

    def draw(self, item, *random):
        return (item,)
'''


ENTRY = {"fungistore.modalities": {"numbers": "numbers_plugin:Numbers"}}


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modality:
    """The modality, found through its entry point in a directory of sys.path."""
    folder = tmp_path / "site-packages"
    write_plugin(folder, "numbers_plugin", NUMBERS, ENTRY)
    install(monkeypatch, folder, "numbers_plugin", MODALITIES)
    return find_modality("numbers")


def read(modality: Modality, source: Any) -> list[list[float]]:
    return [read_item(modality, source.root, sample.uri).tolist() for sample in source]


def test_images_are_always_there() -> None:
    """Our own modality has its name in the registry, and reads as its class does."""
    assert find_modality("image") == Images()
    assert MODALITIES["image"] is Images


def test_an_unknown_modality_is_named_with_those_that_there_are(numbers: Modality) -> None:
    """A store of a plug-in that is not installed says what is missing."""
    with pytest.raises(UsageError, match="unknown modality") as caught:
        find_modality("smell")
    assert caught.value.expected == "audio or image or text or numbers"


def test_a_plugin_is_found_in_a_fresh_process(tmp_path: Path) -> None:
    """PYTHONPATH is enough; nobody has to import the plug-in first."""
    write_plugin(tmp_path, "numbers_plugin", NUMBERS, ENTRY)
    code = (
        "from fungistore.modalities import modality as m; print(m.find_modality('numbers').items)"
    )
    environment = python_environment()
    environment["PYTHONPATH"] += f":{tmp_path}"
    said = subprocess.run(
        python_command("-c", code), env=environment, check=True, capture_output=True, text=True
    )
    assert said.stdout == "sequences\n"


def test_a_modality_needs_no_torch_to_be_asked() -> None:
    """Sources, stores and queries ask it long before a model is there."""
    code = (
        "import sys\n"
        "from fungistore.modalities.modality import find_modality\n"
        "from fungistore.sources.opening import open_source\n"
        "find_modality('image'), open_source('.')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_has_files_of_the_modality(tmp_path: Path, numbers: Modality) -> None:
    """Class folders and splits work as for images, and files of other suffixes are passed over."""
    for path, text in {
        "train/odd/a.num": "1 3",
        "train/even/b.NUM": "2",
        "test/odd/c.num": "5",
        "test/odd/photo.jpg": "x",
    }.items():
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).write_text(text)
    source = open_source(tmp_path / "data", modality="numbers")
    assert [(sample.id, sample.split, sample.label) for sample in source] == [
        ("test/odd/c.num", "test", "odd"),
        ("train/even/b.NUM", "train", "even"),
        ("train/odd/a.num", "train", "odd"),
    ]
    assert read(numbers, source) == [[5], [2], [1, 3]]
    assert [sample.id for sample in open_source(tmp_path / "data")] == ["test/odd/photo.jpg"]


def test_shards_have_members_of_the_modality(tmp_path: Path, numbers: Modality) -> None:
    """A key's first member with such a suffix is its item; a photo beside the shards is nothing."""
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, text in {"x.jpg": "no", "x.num": "4 5", "x.cls": "odd", "y.jpg": "no"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    (folder / "photo.jpg").touch()
    source = open_source(folder, modality="numbers")
    (sample,) = source
    assert (sample.id, sample.label, sample.bytes) == ("a.tar/x", "odd", 3)
    assert sample.uri.partition("&head=")[0].endswith("&ext=num")
    assert read(numbers, source) == [[4, 5]]


@pytest.mark.parametrize("kind", ["csv", "parquet", "bytes"])
def test_a_manifest_may_hold_the_items(tmp_path: Path, numbers: Modality, kind: str) -> None:
    """A column of the modality's needs no path beside it; an id and a label may stand there."""
    cells, names, labels = (
        ["1 2", "3\n4 %", "5"],
        ["a", "b", "c"],
        ["x", "y", "x"],
    )
    path = tmp_path / f"m.{'csv' if kind == 'csv' else 'parquet'}"
    if kind == "csv":
        path.write_text('id,label,numbers\na,x,1 2\nb,y,"3\n4 %"\nc,x,5\n')
    else:
        column = [cell.encode() for cell in cells] if kind == "bytes" else cells
        parquet.write_table(pa.table({"id": names, "label": labels, "numbers": column}), path)
    source = open_source(path, modality="numbers")
    samples = list(source)
    assert samples[0] == Sample("a", "data:,1%202", "x", None, 3, None)
    assert [locate("/", sample.uri).content for sample in samples] == [c.encode() for c in cells]
    assert source.label_names() == ["x", "y"]
    assert read_item(numbers, "/nowhere", samples[2].uri).tolist() == [5]


def test_items_without_an_id_are_named_by_their_content(tmp_path: Path, numbers: Modality) -> None:
    """Rows that come or go change no other's id, and the same content twice has two."""

    def ids(*cells: str) -> dict[str, str]:
        (tmp_path / "m.csv").write_text("\n".join(["label,numbers", *(f"x,{c}" for c in cells)]))
        found = list(open_source(tmp_path / "m.csv", modality="numbers"))
        assert len({sample.id for sample in found}) == len(cells)
        return {sample.id: sample.uri for sample in found}

    before, after = ids("1", "2", "3"), ids("0", "1", "3", "2", "1")
    assert before.items() <= after.items()
    repeat = next(id_ for id_, uri in after.items() if uri == "data:,1" and id_ not in before)
    assert repeat.removesuffix("-2") in before


def test_a_manifest_may_mix_items_and_paths(tmp_path: Path, numbers: Modality) -> None:
    """An empty cell means the file at `path`; where that is empty too, an item without content."""
    (tmp_path / "a.num").write_text("7")
    (tmp_path / "m.csv").write_text("path,values\na.num,\n,8\nb.num,9\n,\n")
    source = open_source(tmp_path / "m.csv", modality="numbers")
    assert [sample.uri for sample in source] == ["a.num", "data:,8", "data:,9", "data:,"]
    assert read_item(numbers, source.root, "a.num").tolist() == [7]
    with pytest.raises(ItemError, match="there is nothing in it"):
        read_item(numbers, source.root, "data:,")


def test_a_manifest_without_items_says_which_columns_can_hold_them(
    tmp_path: Path, numbers: Modality
) -> None:
    """`path` always, and those of the modality; images have none."""
    (tmp_path / "m.csv").write_text("numbers,label\n1,x\n")
    with pytest.raises(UsageError) as caught:
        list(open_source(tmp_path / "m.csv"))
    assert str(caught.value.expected).startswith("`path`, and")
    (tmp_path / "m.csv").write_text("digits,label\n1,x\n")
    with pytest.raises(UsageError) as caught:
        list(open_source(tmp_path / "m.csv", modality="numbers"))
    assert str(caught.value.expected).startswith("`path` or `numbers` or `values`, and")


@given(content=st.binary(max_size=64), root=st.sampled_from(["/", "/a/b"]))
def test_an_inline_uri_is_its_bytes_anywhere(content: bytes, root: str) -> None:
    """It is plain ASCII, has a size and no time, and no root changes it."""
    uri = inline_uri(content)
    assert uri.isascii()
    assert " " not in uri
    assert absolute_uri(root, uri) == uri
    location = locate(root, uri)
    assert location.content == content
    assert location.exists()
    assert location.measure() == (len(content), None)


@pytest.mark.parametrize("name", ["data:,x", "data:", "data:image/png;base64,eA==", "bytes:x"])
def test_a_path_that_reads_like_an_item_stays_a_path(tmp_path: Path, name: str) -> None:
    """A real file of such a name is spelled with bytes: and found."""
    uri = path_to_uri(name)
    assert uri.startswith("bytes:")
    assert uri_to_path(uri) == name
    assert locate(str(tmp_path), uri).path == str(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "error", "what"),
    [
        (b"", "NumberError", "the file is empty"),
        (b"  \n", "NumberError", "there are no numbers in it"),
        (b"one", "NumberError", "the sequence cannot be decoded: could not convert string"),
        (b"\xff", "NumberError", "the sequence cannot be decoded: 'utf-8' codec"),
        (None, "NumberError", "the sequence cannot be read: No such file or directory"),
    ],
)
def test_whatever_cannot_be_read_is_an_error_of_the_modality(
    tmp_path: Path, numbers: Modality, content: bytes | None, error: str, what: str
) -> None:
    """So a run records it and goes on, with the blank item in its place."""
    if content is not None:
        (tmp_path / "a.num").write_bytes(content)
    whole = sys.modules["numbers_plugin"].Whole()
    row = {"row": 3, "id": "a", "root": str(tmp_path), "uri": "a.num"}
    drawn = draw_row(Drawer(numbers, whole, {}, 0), row, frozenset({"embeddings"}))
    assert drawn.failure is not None
    assert (drawn.failure.row, drawn.failure.error) == (3, error)
    assert drawn.failure.message.startswith(what)
    assert drawn.drawn[BASE][0].tolist() == [0]


def test_processes_read_items_of_a_plugin(tmp_path: Path, numbers: Modality) -> None:
    """A child finds the modality that its parent found, and names failures as it does."""
    (tmp_path / "a.num").write_text("1 2 3")
    drawer = Drawer(numbers, sys.modules["numbers_plugin"].Whole(), {}, 0)
    rows = [
        {"row": row, "id": uri, "root": str(tmp_path), "uri": uri}
        for row, uri in enumerate(["a.num", "data:,4", "gone.num"])
    ]
    decoders = InProcesses(drawer, 1)
    try:
        drawn = decoders.draw(rows, frozenset({"embeddings"}))
    finally:
        decoders.close()
    assert [one.drawn[BASE][0].tolist() for one in drawn] == [[1, 2, 3], [4], [0]]
    assert [one.failure.error if one.failure else None for one in drawn] == [
        None,
        None,
        "NumberError",
    ]


@dataclass(frozen=True)
class Items:
    """A source of inline items that are called s0, s1, ..."""

    texts: tuple[str, ...]
    root: str = "/manifests"

    def label_names(self) -> list[str]:
        return []

    def __iter__(self) -> Iterator[Sample]:
        for number, text in enumerate(self.texts):
            yield Sample(f"s{number}", inline_uri(text.encode()), bytes=len(text))


def items(*texts: str) -> Items:
    return Items(texts)


def test_a_store_has_samples_of_one_kind(tmp_path: Path, numbers: Modality) -> None:
    """The first source decides it, and a source of another is refused before anything changes."""
    store = Store.open_or_create(tmp_path / "s.fungi")
    add_source(store, items("1 2", "3"), "numbers")
    assert Store.open(tmp_path / "s.fungi").modality.items == "sequences"
    assert add_source(store, items("1 2", "3", "4")).added == 1  # of the store's kind
    with pytest.raises(MismatchError, match="one kind") as caught:
        add_source(store, items("5"), "image")
    assert (caught.value.expected, caught.value.found) == ("sequences", "images")


def test_a_changed_item_of_the_same_length_is_noticed(tmp_path: Path, numbers: Modality) -> None:
    """A cell has no time: its content tells, and --update takes it over."""
    store = Store.open_or_create(tmp_path / "s.fungi")
    add_source(store, items("1 2", "3 4"), "numbers")
    assert add_source(store, items("1 2", "3 4")).changed == 0
    assert add_source(store, items("1 2", "3 5"), update=True).changed == 1
    assert [row["uri"] for row in store.samples.rows(0, 2)] == ["data:,1%202", "data:,3%205"]


def test_a_query_is_what_the_modality_says(tmp_path: Path, numbers: Modality) -> None:
    """A sample's id, an item that is a sample's, a new one, or neither."""
    store = Store.open_or_create(tmp_path / "s.fungi")
    add_source(store, items("1 2", "3"), "numbers")
    by_id, known, new, wrong = identify(store, ["s1", "1 2", "9", "nine"])
    assert by_id == SampleQuery("s1", 1)
    assert isinstance(known, ItemQuery)
    assert (known.row, known.views, known.uri) == (0, "s0", "data:,1%202")
    assert isinstance(new, ItemQuery)
    assert (new.row, new.root, read_item(numbers, new.root, new.uri).tolist()) == (None, "", [9])
    assert isinstance(wrong, UsageError)
    assert "nor a sample id" in wrong.what


def test_a_page_shows_items_as_the_modality_does(numbers: Modality) -> None:
    """With its words for what is shown and for what is gone."""
    gone = Answer("s7", "numbers", None, "/nowhere", "gone.num", ())
    answer = Answer("1 2 <3>", "numbers", None, "", "data:,1%202%203", ())
    page = render_page(
        SearchResult(
            store="s.fungi",
            modality="numbers",
            feature_set="toy",
            index="i",
            factory="Flat",
            features=("embeddings",),
            metric="cosine",
            vectors=2,
            excluded=0,
            recall=None,
            is_exact=True,
            is_stale=False,
            content="none",
            k=1,
            answers=(answer, gone),
            failed=(),
        )
    )
    assert "Nearest sequences in s.fungi" in page
    assert "<p title='1 2 &lt;3&gt;'>3 numbers</p>" in page
    assert '<div class="frame">sequence cannot be read</div>' in page
    assert '<div class="name">a sequence</div>' in page
    assert '<div class="name">a sequence file</div>' in page


def test_nouns_get_their_article() -> None:
    """Messages about an image and a text read well."""
    assert [with_article(noun) for noun in ("image", "text")] == ["an image", "a text"]


def test_images_are_shown_as_small_jpegs() -> None:
    """A data URI that needs no other file; the caption is escaped."""
    shown = Images().show(np.zeros((900, 600, 3), np.uint8), 'a "cat"')
    assert shown.startswith('<img loading="lazy" src="data:image/jpeg;base64,')
    assert shown.endswith('alt="a &quot;cat&quot;">')
