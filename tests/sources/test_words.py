"""What people write in tables, lists and folders: headers, splits, class names, encodings."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fungistore.errors import UsageError
from fungistore.exchange.table import ColumnNames, read_table
from fungistore.sources.labels import alike_names, class_name, split_name
from fungistore.sources.manifest import ManifestSource
from fungistore.sources.sample import Sample
from fungistore.sources.stdin import PathListSource
from fungistore.text import byte_pieces, decoded, encoding_of, lines_of

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def manifest(folder: Path, text: str | bytes) -> ManifestSource:
    """Return the source of a .csv with some text."""
    path = folder / "m.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return ManifestSource(str(path))


def read(folder: Path, text: str | bytes) -> list[tuple[str, str, str | None, str | None]]:
    """Return (id, uri, label, split) of a .csv's samples."""
    return [(s.id, s.uri, s.label, s.split) for s in manifest(folder, text)]


HEADERS = {
    "path,Label,Split": 0,
    " path , label,split ": 0,
    "FILE,CLASS,SUBSET": 0,
    "File Name,class_name,set": 0,
    "filename,category,Partition": 0,
    "image_path,target,phase": 0,
    "img,y,usage": 0,
    "ImageId,Species,Fold": 0,
    "filepath,labels,data_split": 0,
}


@pytest.mark.parametrize("header", HEADERS)
def test_columns_are_known_by_the_names_that_people_give_them(tmp_path: Path, header: str) -> None:
    """In any case, with blanks or marks between words; what was taken by another name is said."""
    source = manifest(tmp_path, f"{header}\na.png,cat,Training\nb.png,dog,TEST\n")
    assert [(s.id, s.label, s.split) for s in source] == [
        ("a.png", "cat", "train"),
        ("b.png", "dog", "test"),
    ]
    assert source.columns() == {}
    exact = header.replace(" ", "").casefold() == "path,label,split"
    assert bool(source.remarks()) != exact


def test_an_exact_name_wins_and_the_choice_is_said(tmp_path: Path) -> None:
    """The others stay columns of the store."""
    source = manifest(tmp_path, "class,file,path,label\nx,1.png,a.png,cat\ny,2.png,b.png,dog\n")
    assert [(s.uri, s.label, s.cells) for s in source] == [
        ("a.png", "cat", ("x", "1.png")),
        ("b.png", "dog", ("y", "2.png")),
    ]
    assert source.remarks() == [
        "the path is column 'path', not 'file'",
        "the label is column 'label', not 'class'",
    ]


def test_of_two_columns_of_paths_the_one_that_leads_to_files_is_taken(tmp_path: Path) -> None:
    """Neither is called `path`, and the first one names no file."""
    (tmp_path / "1.png").write_bytes(b"x")
    source = manifest(tmp_path, "filename,image\nraw_1,1.png\n")
    assert [s.bytes for s in source] == [1]
    assert "'image', not 'filename'" in source.remarks()[0]


def test_names_of_classes_are_labels_before_their_numbers(tmp_path: Path) -> None:
    """Unless two numbers have one name, as ImageNet's cranes: then they are two classes."""
    rows = "path,label,label_name\na,0,cat\nb,1,dog\nc,0,cat\n"
    source = manifest(tmp_path, rows)
    assert source.label_names() == ["cat", "dog"]
    assert source.columns() == {"label": "int"}
    assert manifest(tmp_path, rows + "d,2,dog\n").label_names() == ["0", "1", "2"]
    assert manifest(tmp_path, "path,class_id,species\na,7,owl\n").label_names() == ["owl"]


def test_numbers_of_folds_are_no_splits(tmp_path: Path) -> None:
    """Nor are the words of a set that name none; fractions are no labels, repeated ids no ids."""
    source = manifest(
        tmp_path, "path,fold,set,target,image_id\na,0,A,0.5,i\nb,1,B,0.25,i\n".replace(";", ",")
    )
    first, _ = source
    assert first == Sample("a", "a", cells=(0, "A", 0.5, "i"))


def test_ids_have_other_names_too(tmp_path: Path) -> None:
    """A column of distinct image ids beside the paths names the samples."""
    assert [s.id for s in manifest(tmp_path, "file,image_id\na.png,i1\nb.png,i2\n")] == ["i1", "i2"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """Nobody can tell which of `label` and `Label ` is meant... unless one is exact."""
    with pytest.raises(UsageError, match="columns cannot be used") as caught:
        list(manifest(tmp_path, "path,Label,LABEL\na,b,c\n"))
    assert "called the same" in str(caught.value.hint)
    assert [s.label for s in manifest(tmp_path, "path,Label,label\na,b,c\n")] == ["c"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_any_encoding_line_end_and_delimiter(
    tmp_path: Path, encoding: str, end: str, mark: str
) -> None:
    """A manifest is the same, whoever wrote it."""
    lines = ["path,label,split", "ü.png,café,Valid", '"x,1.png",hot dog,dev', ""]
    lines[2] = lines[2] if mark == "," else "x,1.png;hot dog;dev".replace(";", mark)
    text = end.join([lines[0].replace(",", mark), lines[1].replace(",", mark), *lines[2:]])
    assert read(tmp_path, text.encode(encoding)) == [
        ("ü.png", "ü.png", "café", "val"),
        ("x,1.png", "x,1.png", "hot dog", "val"),
    ]


def test_blanks_after_the_delimiter_are_no_part_of_cells(tmp_path: Path) -> None:
    """Nor before quotes; a path keeps its own blanks where the header has none."""
    text = 'path, label, split\na.png, "cat, wild", test \n'
    assert read(tmp_path, text) == [("a.png", "a.png", "cat, wild", "test")]
    (tmp_path / " b .png").write_bytes(b"x")
    (tmp_path / "c.png").write_bytes(b"x")
    assert read(tmp_path, "label,path\nx, b .png\n") == [(" b .png", " b .png", "x", None)]
    assert read(tmp_path, "label,path\nx, c.png\n") == [("c.png", "c.png", "x", None)]


def test_numbers_may_have_a_decimal_comma(tmp_path: Path) -> None:
    """Where semicolons part cells; and Excel's first line may say what does.

    Between tabs, 1,234 may be a thousand or one and a bit: it stays text.
    """
    source = manifest(tmp_path, "sep=;\npath;score;size\na;0,5;1\nb;-1,25e1;2\n")
    assert source.columns() == {"score": "float", "size": "int"}
    assert [s.cells for s in source] == [(0.5, 1), (-12.5, 2)]
    source = manifest(tmp_path, "path\tprice\tsize\na\t1,234\t0.5\n")
    assert [s.cells for s in source] == [("1,234", 0.5)]


def test_what_is_no_text_says_how_to_make_it_one(tmp_path: Path) -> None:
    """A table in a code page of Windows names the conversion, a short row what it lacks."""
    for text, word in (
        ("path,label\na,é\n".encode("cp1252"), "iconv"),
        (b"", "header line"),
        (b"path,label\na\n", "a cell for each column"),
    ):
        with pytest.raises(UsageError) as caught:
            list(manifest(tmp_path, text))
        assert word in str(caught.value.hint)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_list_of_paths_may_be_written_by_any_system(encoding: str, end: str) -> None:
    """On standard input, as PowerShell and Notepad write it."""
    stream = io.BytesIO(end.join(["é.png", "b c.png", ""]).encode(encoding))
    assert [sample.id for sample in PathListSource(stream)] == ["é.png", "b c.png"]
    stream.seek(0)
    assert [line.decode() for line in lines_of(stream)] == ["é.png", "b c.png", ""]


def test_paths_between_nuls_keep_their_bytes() -> None:
    """Only a mark before the first one is taken away."""
    stream = io.BytesIO(b"\xef\xbb\xbfa\r\nb\0\xe9.png\0")
    assert [sample.id for sample in PathListSource(stream)] == ["a\r\nb", "bytes:%E9.png"]
    assert [s.id for s in PathListSource(io.BytesIO(b"a\0b\0c\0"))] == ["a", "b", "c"]


def test_a_long_list_is_decoded_in_pieces() -> None:
    """A character of four bytes may lie across the border of two."""
    text = "😀é\n" * 50_000
    for encoding in ENCODINGS:
        assert b"".join(byte_pieces(io.BytesIO(text.encode(encoding)))) == text.encode()
        assert decoded(text.encode(encoding)) == text
    assert encoding_of(b"a\0b\0") == ("utf-8", 0)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_of_imports_are_read_as_manifests_are(tmp_path: Path, encoding: str) -> None:
    """Their columns have the same names, and so has a list of ids any encoding."""
    (tmp_path / "t.csv").write_bytes("Image_ID; Class \r\né;cafe\u0301\r\n".encode(encoding))
    (tmp_path / "ids.txt").write_bytes("é\r\nb\r\n".encode(encoding))
    (table,) = read_table(tmp_path / "t.csv", ColumnNames())
    assert table.to_pylist() == [{"id": "é", "label": "café"}]
    (table,) = read_table(tmp_path / "ids.txt", ColumnNames())
    assert table["id"].to_pylist() == ["é", "b"]


def test_columns_of_parquet_have_these_names_too(tmp_path: Path) -> None:
    """What is no text is no label: its column stays."""
    columns = {"File ": ["a", "b"], "target": [0.5, 1.5], "Class": [3, 4], "subset": ["DEV", None]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    source = ManifestSource(str(tmp_path / "m.parquet"))
    assert list(source) == [
        Sample("a", "a", "3", "val", cells=(0.5,)),
        Sample("b", "b", "4", cells=(1.5,)),
    ]


@pytest.mark.parametrize(
    ("text", "split"),
    [
        *(("TRAIN", "train"), ("training", "train"), (" Train ", "train"), ("dev", "val")),
        *(("Valid", "val"), ("validation", "val"), ("Testing", "test"), ("eval", "test")),
        *(("evaluation", "test"), ("test-set", "test"), ("holdout", "holdout"), ("", None)),
        *(("  ", None), ("extra ", "extra")),
    ],
)
def test_splits_have_one_word(text: str, split: str | None) -> None:
    """Words that a source has of its own stay."""
    assert split_name(text) == split


def test_class_names_have_one_spelling() -> None:
    """And those that only look the same are found."""
    assert class_name("cafe\u0301") == class_name("caf\u00e9")
    names = ["Cat", "cat", "hot dog", "hot_dog", "1 1", "11", "-1", "1", "ﬁsh", "fish", "owl"]
    assert alike_names(names) == [("Cat", "cat"), ("hot dog", "hot_dog"), ("fish", "ﬁsh")]
