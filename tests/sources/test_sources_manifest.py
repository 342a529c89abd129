"""Manifests: what their columns mean, and how a bad one is reported."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fungistore.errors import FungiError, UsageError
from fungistore.sources.manifest import ManifestSource
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Sample

SHARED_TMP_PATH = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def from_csv(folder: Path, content: str | bytes) -> ManifestSource:
    path = folder / "images.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return ManifestSource(str(path))


def from_parquet(folder: Path, **columns: pa.Array) -> ManifestSource:
    parquet.write_table(pa.table(columns), folder / "images.parquet")
    return ManifestSource(str(folder / "images.parquet"))


def failure(source: ManifestSource) -> UsageError:
    with pytest.raises(UsageError) as caught:
        list(source)
    assert source.path in str(caught.value.where)
    return caught.value


def test_all_columns_of_a_csv_are_text(tmp_path: Path) -> None:
    """Ids, labels and splits stay as written, other columns are ignored, order is kept."""
    (tmp_path / "b.jpg").write_bytes(b"123")
    source = from_csv(
        tmp_path,
        "width,label,path,split,id\n1,007,b.jpg,valid,1e5\nwide,NA,sub/a.jpg,holdout,\n,,c.jpg,,x\n",
    )
    first, *others = source
    assert (first.id, first.uri, first.label, first.split) == ("1e5", "b.jpg", "007", "val")
    assert first.bytes == 3
    assert first.mtime == pytest.approx((tmp_path / "b.jpg").stat().st_mtime, abs=1e-6)
    assert others == [
        Sample("sub/a.jpg", "sub/a.jpg", "NA", "holdout", cells=("wide",)),
        Sample("x", "c.jpg", None, None, cells=(None,)),
    ]
    assert source.label_names() == ["007", "NA"]
    assert source.root == str(tmp_path)


def test_path_alone_is_enough(tmp_path: Path) -> None:
    """Without other columns, ids are paths as written, and missing files are still rows."""
    source = from_csv(tmp_path, "path\n./a.jpg\n/nowhere/b.jpg\n")
    assert list(source) == [
        Sample("./a.jpg", "./a.jpg"),
        Sample("/nowhere/b.jpg", "/nowhere/b.jpg"),
    ]
    assert source.label_names() == []


def test_a_manifest_without_rows_is_empty(tmp_path: Path) -> None:
    """A header alone gives no samples: emptiness is for the caller to judge."""
    assert list(from_csv(tmp_path, "path,label\n")) == []
    assert list(from_parquet(tmp_path, path=pa.array([], pa.string()))) == []


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Spreadsheet programs write one before the header."""
    assert list(from_csv(tmp_path, "\ufeffpath\na.jpg\n")) == [Sample("a.jpg", "a.jpg")]


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    """Integer and dictionary labels become text, nulls are unknown, large batches stream."""
    count = 40_000
    source = from_parquet(
        tmp_path,
        path=pa.array([f"{n}.jpg" for n in range(count)], pa.large_string()),
        label=pa.array([None if n == 1 else n % 12 for n in range(count)], pa.uint8()),
        split=pa.array(["validation"] * count).dictionary_encode(),
        other=pa.array([[1.0]] * count),
    )
    samples = list(source)
    assert len(samples) == count
    assert samples[0] == Sample("0.jpg", "0.jpg", "0", "val")
    assert samples[1].label is None
    assert samples[-1].id == "39999.jpg"
    assert source.label_names() == [str(n) for n in range(12)]


@pytest.mark.parametrize("separator", [";", "\t", "|", "; "])
def test_a_manifest_may_have_other_separators(tmp_path: Path, separator: str) -> None:
    """A spreadsheet's export in many countries has semicolons; no column has to be renamed."""
    source = from_csv(tmp_path, "path,label,size\na,b,1.5\n".replace(",", separator))
    assert list(source) == [Sample("a", "a", "b", cells=(1.5,))]


def test_a_manifest_without_paths_says_what_it_found(tmp_path: Path) -> None:
    """The error has the file, the expected and the found columns, and what to do."""
    for source in (
        from_csv(tmp_path, "thing,label\na,b\n"),
        from_parquet(tmp_path, thing=pa.array(["a"]), label=pa.array(["b"])),
    ):
        error = failure(source)
        assert error.found == "thing, label"
        assert "`path`" in str(error.expected)
        assert "rename" in str(error.hint)


@pytest.mark.parametrize("cell", ['""', '"  "'])
def test_an_empty_path_is_an_error_that_names_the_row(tmp_path: Path, cell: str) -> None:
    """Rows count from 1, the header excluded; the rows before were given."""
    source = from_csv(tmp_path, f"path,label\na.jpg,x\n{cell},y\n")
    assert str(failure(source).where).endswith("images.csv, row 2")
    assert "row 2" in str(failure(from_parquet(tmp_path, path=pa.array(["a", None]))).where)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"path,label\na.jpg\n",
        b"path,label\na.jpg,b,c\n",
        b'path,label\n"a.jpg,b\nc.jpg,d\n',
        b"path\n\xff.jpg\n",
        b"path,path\na,b\n",
    ],
)
def test_a_malformed_csv_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    """Uneven rows, open quotes, other encodings and doubled columns are refused."""
    source = from_csv(tmp_path, content)
    assert failure(source).hint
    with pytest.raises(UsageError):
        source.label_names()


def test_a_malformed_row_is_named(tmp_path: Path) -> None:
    """Arrow's message about the row is passed on."""
    assert "Row #3" in str(failure(from_csv(tmp_path, "path,label\na,b\nc\n")).found)


@pytest.mark.parametrize(
    ("column", "values"),
    [("label", [1.0, None]), ("path", [1, 2]), ("split", [0, 1]), ("id", [[1], [2]])],
)
def test_parquet_columns_of_other_types_are_refused(
    tmp_path: Path, column: str, values: list[object]
) -> None:
    """A float label (a pandas column with gaps) would read 3.0: it is named, with a way out."""
    columns = {"path": pa.array(["a", "b"]), column: pa.array(values)}
    error = failure(from_parquet(tmp_path, **columns))
    assert str(error.where).endswith(f"column {column}")
    assert "Int64" in str(error.hint)


def test_a_corrupt_or_missing_manifest_is_a_usage_error(tmp_path: Path) -> None:
    """Bytes that are no parquet, and a file that is gone, are reported in the same way."""
    (tmp_path / "images.parquet").write_bytes(b"PAR1 or so")
    failure(ManifestSource(str(tmp_path / "images.parquet")))
    failure(ManifestSource(str(tmp_path / "gone.csv")))


def test_a_manifest_may_name_what_other_sources_named(tmp_path: Path) -> None:
    """A path may be a uri: here the sample is four bytes of a file, and so is its size."""
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    source = from_csv(tmp_path, "path\na.tar#offset=2&size=4&ext=jpg\n")
    assert [sample.bytes for sample in source] == [4]


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(content=st.lists(st.lists(CELLS, max_size=4), max_size=5))
@SHARED_TMP_PATH
def test_arbitrary_text_raises_nothing_but_fungi_errors(
    tmp_path: Path, content: list[list[str]]
) -> None:
    """Whatever stands in a file called .csv, the answer is samples or an explanation."""
    source = from_csv(tmp_path, "path,label\n" + "\n".join(",".join(row) for row in content))
    try:
        samples = list(source)
        source.label_names()
    except FungiError as error:
        assert str(error)
    else:
        assert all(sample.id for sample in samples)


@given(names=st.lists(CELLS.filter(lambda cell: cell.strip()), min_size=1, max_size=5))
@SHARED_TMP_PATH
def test_quoted_ids_survive(tmp_path: Path, names: list[str]) -> None:
    """Commas, quotes, line breaks and any Unicode in quoted cells come back as they were."""
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerows([("path", "id"), *((f"{n}.jpg", name) for n, name in enumerate(names))])
    assert [sample.id for sample in from_csv(tmp_path, stream.getvalue())] == names


def test_line_breaks_in_cells_survive_the_borders_of_blocks(tmp_path: Path) -> None:
    """A CSV of several of Arrow's one-megabyte blocks, each id three lines long, is read whole."""
    names = [f"{n}\n{'x' * (n % 200)}\n,{n}" for n in range(20_000)]
    rows = "".join(f'{n}.jpg,"{name}"\n' for n, name in enumerate(names))
    assert [sample.id for sample in from_csv(tmp_path, "path,id\n" + rows)] == names


def test_the_suffix_chooses_the_reader_in_any_case(tmp_path: Path) -> None:
    """IMAGES.CSV is a manifest too."""
    (tmp_path / "IMAGES.CSV").write_text("path\na.jpg\n")
    assert list(open_source(str(tmp_path / "IMAGES.CSV"))) == [Sample("a.jpg", "a.jpg")]
