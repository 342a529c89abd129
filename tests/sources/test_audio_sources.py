"""Where sounds come from: folders, manifests with spans, shards, Parquet, and two public sets."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from fungistore import find_modality, read_item
from fungistore.errors import UsageError
from fungistore.location import (
    Span,
    absolute_uri,
    locate,
    path_to_uri,
    span_uri,
    split_span,
    uri_to_path,
)
from fungistore.sources.advice import empty_hint
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Sample, Source, columns_of, source_remarks

soundfile = pytest.importorskip("soundfile")

RATE = 8000


def sound(value: float, seconds: float = 1.0, kind: str = "WAV") -> bytes:
    """A constant, which tells which sound it is."""
    stream = io.BytesIO()
    samples = np.full(int(seconds * RATE), value, np.float32)
    soundfile.write(stream, samples, RATE, format=kind)
    return stream.getvalue()


def ramp(path: Path, seconds: int = 10) -> None:
    """A sound whose value is its second, in hundredths."""
    samples = np.repeat(np.arange(seconds), RATE) / 100
    soundfile.write(path, samples.astype(np.float32), RATE, subtype="FLOAT")


def opened(path: object, text: str | None = None) -> Source:
    if text is not None:
        Path(str(path)).write_text(text)
    return open_source(str(path), modality="audio")


def first_value(source: Source, sample: Sample) -> tuple[float, float]:
    """Return the first number of a sample's sound, and how long it is."""
    recording = read_item(find_modality("audio"), source.root, sample.uri)
    return round(float(recording.samples[0]), 3), recording.seconds


# ------------------------------------------------------------------ spans


def test_rows_of_a_manifest_are_spans_of_files(tmp_path: Path) -> None:
    """Either side may be empty; ids differ, and both columns are kept with the samples."""
    ramp(tmp_path / "talk.wav")
    source = opened(
        tmp_path / "m.csv",
        "path,start,end,label\n"
        "talk.wav,1,2.5,a\ntalk.wav,3.25,,b\ntalk.wav,,0.5,c\ntalk.wav,,,d\ntalk.wav,1e0,2,e\n",
    )
    samples = list(source)
    assert [sample.id for sample in samples] == [
        "talk.wav#from=1&to=2.5",
        "talk.wav#from=3.25&to=",
        "talk.wav#from=&to=0.5",
        "talk.wav",
        "talk.wav#from=1&to=2",
    ]
    assert [first_value(source, sample) for sample in samples] == [
        (0.01, 1.5),
        (0.03, 6.75),
        (0.0, 0.5),
        (0.0, 10.0),
        (0.01, 1.0),
    ]
    assert columns_of(source) == {"start": "float", "end": "float"}
    assert samples[0].cells == (1.0, 2.5)
    assert {sample.bytes for sample in samples} == {(tmp_path / "talk.wav").stat().st_size}
    assert any("'start' to 'end', in seconds" in remark for remark in source_remarks(source))


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl", "m.parquet"])
def test_tables_of_all_kinds_have_spans(name: str, tmp_path: Path) -> None:
    """With ids of their own, columns of other spellings, and NaN for an empty cell."""
    ramp(tmp_path / "talk.wav")
    if name == "m.parquet":
        columns = {
            "path": ["talk.wav"] * 2,
            "id": ["x", "y"],
            "Start Time": [4.0, float("nan")],
            "end_time": pa.array([5, 6], pa.int16()),
        }
        parquet.write_table(pa.table(columns), tmp_path / name)
    elif name == "m.jsonl":
        rows = (
            {"path": "talk.wav", "id": "x", "Start Time": 4, "end_time": 5.0},
            {"path": "talk.wav", "id": "y", "Start Time": None, "end_time": 6},
        )
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        mark = "\t" if name == "m.tsv" else ";"  # as a German Excel has it
        lines = ["path|id|Start Time|end_time", "talk.wav|x|4,0|5", "talk.wav|y||6"]
        text = "\n".join(lines).replace("|", mark)
        (tmp_path / name).write_text(text.replace(",", ".") if mark == "\t" else text)
    source = opened(tmp_path / name)
    assert [(sample.id, *first_value(source, sample)) for sample in source] == [
        ("x", 0.04, 1.0),
        ("y", 0.0, 6.0),
    ]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("a.wav,2,1", "ends at 1 s"),
        ("a.wav,2,2", "ends at 2 s"),
        ("a.wav,,0", "ends at 0 s"),
        ("a.wav,-1,1", "no second -1"),
        ("a.wav,0:30,1", "'0:30' is no number"),
        ("a.wav,0,early", "'early' is no number"),
        ("a.wav,0,9999999999", "no second 9999999999"),
        ("a.wav,0,inf", "no second 'inf'"),
    ],
)
def test_spans_that_are_none_name_their_row(row: str, match: str, tmp_path: Path) -> None:
    """The row is said, and what to do where the columns are of something else."""
    source = opened(tmp_path / "m.csv", f"path,start,end\na.wav,0,1\n{row}\n")
    with pytest.raises(UsageError, match=match) as error:
        list(source)
    assert str(error.value.where).endswith("m.csv, row 2")
    assert "renamed" in str(error.value.hint)


def test_columns_of_other_types_are_refused(tmp_path: Path) -> None:
    """A duration or a list is no number of seconds; neither is a truth value."""
    for kind in (pa.duration("s"), pa.list_(pa.int64())):
        cells = pa.array([None], kind)
        parquet.write_table(pa.table({"path": ["a.wav"], "start": cells}), tmp_path / "m.parquet")
        with pytest.raises(UsageError, match="has no numbers"):
            list(opened(tmp_path / "m.parquet"))
    with pytest.raises(UsageError, match="no second True"):
        list(opened(tmp_path / "m.csv", "path,start\na.wav,true\n"))


def test_other_modalities_keep_the_columns_as_cells(tmp_path: Path) -> None:
    """An image has no seconds."""
    (tmp_path / "m.csv").write_text("path,start,end\na.png,5,1\n")
    source = open_source(str(tmp_path / "m.csv"))
    assert [(sample.id, sample.cells) for sample in source] == [("a.png", (5, 1))]


def test_a_span_of_a_picture_is_an_error(tmp_path: Path) -> None:
    """A uri may be written by hand, and then says what cannot be."""
    image = find_modality("image")
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(image.error, match="an image has no spans of time"):
        read_item(image, str(tmp_path), "a.png#from=1&to=2")


def test_uris_of_spans_are_spelled_in_one_way(tmp_path: Path) -> None:
    """Spelling and reading are inverse; a file whose name reads so is spelled by its bytes."""
    member = "a.tar#offset=512&size=10&ext=wav"
    for uri in ("talk.wav", "/a/b c.flac", "data:,x", member, "bytes:caf%E9.wav", "a#from=x&to="):
        assert split_span(uri) == (uri, None)
        assert span_uri(uri, Span()) == uri
        for span in (Span(1.5, 3.25), Span(None, 1e-9), Span(0.0, None), Span(999_999_999, None)):
            assert split_span(span_uri(uri, span)) == (uri, span)
            assert locate("/r", span_uri(uri, span)) == locate("/r", uri)
    assert span_uri("a.wav", Span(1.50, 3.0)) == "a.wav#from=1.5&to=3"
    assert absolute_uri("/r", "a.wav#from=1&to=") == "/r/a.wav#from=1&to="
    for odd in ("a#from=1&to=2", "a#from=&to="):
        assert path_to_uri(odd).startswith("bytes:")
        assert uri_to_path(path_to_uri(odd)) == odd
        assert locate("/r", path_to_uri(odd)).path == f"/r/{odd}"
    for text in ("#from=1&to=2", "a#from=01&to=2", "a#from=1.50&to=2", "a#from=1&to=-2"):
        assert split_span(text) == (text, None)


def test_a_manifest_of_spelled_spans_is_read_again(tmp_path: Path) -> None:
    """What a store calls a sample may be a path, and its columns may still be there."""
    ramp(tmp_path / "talk.wav")
    text = "path,start,end\ntalk.wav#from=2&to=3,2,3\n"
    source = opened(tmp_path / "m.csv", text)
    (sample,) = source
    assert (sample.uri, *first_value(source, sample)) == ("talk.wav#from=2&to=3", 0.02, 1.0)


# ------------------------------------------------------------------ containers


def test_folders_are_listed_by_suffix(tmp_path: Path) -> None:
    """Class folders and splits as for images; files of other kinds are counted, not read."""
    for name in ("train/dog/a.wav", "train/cat/b.FLAC", "test/dog/c.mp3", "test/dog/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = opened(tmp_path)
    found = [(sample.id, sample.label, sample.split) for sample in source]
    assert found == [
        ("test/dog/c.mp3", "dog", "test"),
        ("train/cat/b.FLAC", "cat", "train"),
        ("train/dog/a.wav", "dog", "train"),
    ]
    assert source.ignored() == {".txt": 1}  # type: ignore[attr-defined]


def test_shards_have_sounds_as_members(tmp_path: Path) -> None:
    """By their suffixes, with the label beside them."""
    with tarfile.open(tmp_path / "a-000.tar", "w") as shard:
        for number, kind in enumerate(("wav", "flac", "ogg")):
            members = {kind: sound(0.25 * number, kind=kind.upper()), "cls": str(number).encode()}
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{number:03}.{suffix}")
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    source = opened(tmp_path / "a-000.tar")
    samples = list(source)
    assert [sample.label for sample in samples] == ["0", "1", "2"]
    values = [first_value(source, sample) for sample in samples]
    assert np.allclose(values, [(0, 1), (0.25, 1), (0.5, 1)], atol=0.01)


@pytest.mark.parametrize("described", [True, False])
def test_parquet_has_sounds_as_structs(described: bool, tmp_path: Path) -> None:
    """Bytes and path, as Hugging Face's datasets has a column of the type Audio."""
    cells = [{"bytes": sound(0.5), "path": "x.wav"}, {"bytes": sound(0.25), "path": None}]
    table = pa.table({"audio": cells, "label": ["a", "b"]})
    if described:
        features = '{"info": {"features": {"audio": {"_type": "Audio"}}}}'
        table = table.replace_schema_metadata({"huggingface": features})
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    source = opened(tmp_path / "train-00000-of-00001.parquet")
    samples = list(source)
    assert [(s.label, s.split) for s in samples] == [("a", "train"), ("b", "train")]
    assert np.allclose([first_value(source, s) for s in samples], [(0.5, 1), (0.25, 1)], atol=0.001)


def test_a_column_of_plain_bytes_is_found_by_its_name(tmp_path: Path) -> None:
    """Without a struct and without a description."""
    parquet.write_table(pa.table({"wav": [sound(0.5)], "rate": [RATE]}), tmp_path / "a.parquet")
    source = opened(tmp_path / "a.parquet")
    (sample,) = source
    assert first_value(source, sample)[1] == 1.0


def test_a_column_of_paths_may_be_called_audio(tmp_path: Path) -> None:
    """In a manifest it names files, and is not the sounds themselves."""
    (tmp_path / "a.wav").write_bytes(sound(0.5))
    source = opened(tmp_path / "m.csv", "audio,label\na.wav,x\n")
    (sample,) = source
    assert (sample.id, first_value(source, sample)[1]) == ("a.wav", 1.0)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("a.m4a", "b.m4a"), "ffmpeg -i A.m4a A.flac"),
        (("film.mp4",), "ffmpeg -i A.mp4 A.flac"),
        (("a.jpg",), "images are taken by a --model of images"),
    ],
)
def test_a_folder_without_sounds_says_what_is_there_instead(
    files: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    """Formats that libsndfile does not know are named with what makes them known."""
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    audio = find_modality("audio")
    ignored = dict.fromkeys((Path(name).suffix for name in files), 1)
    assert words in empty_hint(str(tmp_path), ignored, audio)
    with pytest.raises(UsageError) as error:
        opened(tmp_path / files[0])
    assert words in str(error.value.hint)
