"""Tar shards: grouping, labels, random access, hostile names and damaged files."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fungistore.errors import FungiError, ImageError, UsageError
from fungistore.location import absolute_uri
from fungistore.modalities.image.images import Images
from fungistore.modalities.reading import read_item
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Sample, ignored_by
from fungistore.sources.shards import expand_braces
from fungistore.sources.webdataset import TarSource


def png(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_shard(
    path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT
) -> str:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def numbered(count: int) -> list[tuple[str, bytes]]:
    return [
        (f"{n:03}.{extension}", content)
        for n in range(count)
        for extension, content in (("png", png(n)), ("cls", b"%d\n" % (n % 3)))
    ]


def test_samples_are_groups_of_adjacent_members(tmp_path: Path) -> None:
    """One sample per key, its label from .cls, its place and time those of the shard."""
    path = write_shard(tmp_path / "a-0.tar", numbered(3))
    source = open_source(path)
    samples = list(source)
    assert [sample.id for sample in samples] == ["a-0.tar/000", "a-0.tar/001", "a-0.tar/002"]
    assert [sample.label for sample in samples] == ["0", "1", "2"]
    assert {sample.mtime for sample in samples} == {os.stat(path).st_mtime}
    assert samples[0].bytes == len(png(0))
    assert samples[0].uri.startswith(f"a-0.tar#offset=512&size={len(png(0))}&ext=png&head=512-")
    assert source.label_names() == ["0", "1", "2"]
    assert list(source) == samples


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_uri_gives_random_access(tmp_path: Path, format: int) -> None:
    """read_item finds each member by its uri, in any order and any tar dialect."""
    long_name = "d/" * 60
    members = [(f"{long_name}{n}.png", png(n)) for n in range(10)]
    source = open_source(write_shard(tmp_path / "a.tar", members, format))
    for number, sample in reversed(list(enumerate(source))):
        assert sample.id == f"a.tar/{long_name}{number}"
        pixels = read_item(Images(), source.root, sample.uri)
        np.testing.assert_array_equal(pixels, np.broadcast_to([number, 0, 0], (4, 4, 3)))


def test_one_image_of_a_key_counts_and_the_others_are_told(tmp_path: Path) -> None:
    """The plain one whatever the order, else the first; a key ends at the first dot."""
    members = [
        ("d.x/a.seg.png", png(1)),
        ("d.x/a.jpg", b"later"),
        ("b.txt", b"no image"),
        ("._c.png", png(2)),
        ("nodot", b""),
        *((f"IMG_2024.05.{n}.png", png(n)) for n in range(3)),
        ("d.x/a.png", png(5)),
        ("lone.cls", b"1"),
    ]
    source = open_source(write_shard(tmp_path / "a.tar", members))
    for _ in range(2):
        first, second = source
        assert (first.id, first.bytes) == ("a.tar/d.x/a", len(b"later"))
        assert (second.id, second.bytes) == ("a.tar/IMG_2024", len(png(0)))
        several, alone = source.remarks()
        assert ignored_by(source) == {"further items of a key": 4, "sidecars without an item": 1}
        assert "4 items have the key of another" in several
        assert "a.tar/d.x/a.seg.png" in several
        assert "1 sidecar has no item beside" in alone


@pytest.mark.parametrize(
    "members",
    [
        [("a.CLS", b"3\n"), ("a.PNG", png(0))],
        [("a.png", png(0)), ("a.Cls", b"\xef\xbb\xbf3")],
        [("a.JSON", b'{"Class Name": 3}'), ("a.mask.png", png(1)), ("a.png", png(0))],
        [("a.png", png(0)), ("a.json", '{"CATEGORY": "3", "Subset": "x"}'.encode("utf-16"))],
        [("a.cls", "3".encode("utf-16")), ("a.json", b'{"label": 4}'), ("a.png", png(0))],
    ],
)
def test_sidecars_in_any_order_case_and_encoding(
    tmp_path: Path, members: list[tuple[str, bytes]]
) -> None:
    """The label is found wherever its member stands."""
    (sample,) = open_source(write_shard(tmp_path / "a.tar", members))
    assert (sample.label, sample.bytes) == ("3", len(png(0)))


@pytest.mark.parametrize(
    ("fields", "label", "split"),
    [
        ({"label": "cat", "split": "valid"}, "cat", "val"),
        ({"label": 7, "cls": 8}, "7", None),
        ({"label": None, "cls": 0}, "0", None),
        ({"label": "", "class_name": "dog", "split": 3}, "dog", "3"),
        ({"label": [1, 2], "split": None}, None, None),
        ({"label": "\ud800"}, "\\ud800", None),
        ([1], None, None),
    ],
)
def test_json_gives_label_and_split(
    tmp_path: Path, fields: object, label: str | None, split: str | None
) -> None:
    """The first of label, cls and class_name that is text or an integer is the label."""
    members = [("a.json", json.dumps(fields).encode()), ("a.png", png(0))]
    (sample,) = open_source(write_shard(tmp_path / "a.tar", members))
    assert (sample.label, sample.split) == (label, split)


def test_cls_goes_before_json(tmp_path: Path) -> None:
    """Where both give a label, .cls wins."""
    members = [("a.cls", b" caf\xc3\xa9\n"), ("a.json", b'{"label": 1}'), ("a.png", png(0))]
    (sample,) = open_source(write_shard(tmp_path / "a.tar", members))
    assert sample.label == "caf\xe9"


def test_hostile_names_are_only_names(tmp_path: Path) -> None:
    """Names with .., absolute names, devices, links and odd bytes touch nothing on disk."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in (
            "../../evil.png",
            "/etc/evil.png",
            "n\nl.png",
            "q#offset=1&size=2&ext=x.png",
            "b\udcff.png",
        ):
            member = tarfile.TarInfo(name)
            member.size = len(png(9))
            tar.addfile(member, io.BytesIO(png(9)))
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
        ):
            member = tarfile.TarInfo("link.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    before = sorted(tmp_path.rglob("*"))
    source = open_source(str(path))
    samples = list(source)
    assert [sample.id for sample in samples] == [
        "a.tar/../../evil",
        "a.tar//etc/evil",
        "a.tar/n\nl",
        "bytes:a.tar/q%23offset%3D1%26size%3D2%26ext%3Dx",
        "bytes:a.tar/b%FF",
    ]
    for sample in samples:
        sample.id.encode()
        assert read_item(Images(), source.root, sample.uri)[0, 0, 0] == 9
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_shards_is_read_in_order(tmp_path: Path) -> None:
    """A folder with shards and neither images nor folders is a WebDataset."""
    for name in ("b.tar", "a.tar"):
        write_shard(tmp_path / name, [("x.png", png(0))])
    (tmp_path / "README.md").write_text("about")
    source = open_source(str(tmp_path))
    assert [sample.id for sample in source] == ["a.tar/x", "b.tar/x"]
    assert source.root == str(tmp_path)


@pytest.mark.parametrize("other", ["a.jpg", "class/a.jpg"])
def test_an_archive_beside_images_is_no_shard(tmp_path: Path, other: str) -> None:
    """The archive that a folder of images was unpacked from is not read as well."""
    write_shard(tmp_path / "images.tar", [("x.png", png(0))])
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).write_bytes(png(0))
    assert [sample.id for sample in open_source(str(tmp_path))] == [other]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a-{008..010}.tar", ["a-008.tar", "a-009.tar", "a-010.tar"]),
        ("a-{9..11}.tar", ["a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{b,a}/{1..0}.tar", ["b/1.tar", "b/0.tar", "a/1.tar", "a/0.tar"]),
        ("a.tar", ["a.tar"]),
        ("{a}.tar", ["{a}.tar"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern: str, expected: list[str]) -> None:
    """Ranges keep the width of their first number and may run backwards; lists keep order."""
    assert list(expand_braces(pattern)) == expected


def test_a_brace_pattern_names_shards(tmp_path: Path) -> None:
    """Ids are relative to the folder before the first brace, so that more shards change none."""
    for name in ("train/0.tar", "train/1.tar", "val/0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_shard(tmp_path / name, [("x.png", png(0))])
    source = open_source(f"{tmp_path}/{{train,val}}/{{0..0}}.tar")
    assert [sample.id for sample in source] == ["train/0.tar/x", "val/0.tar/x"]
    shapes = [read_item(Images(), source.root, sample.uri).shape for sample in source]
    assert shapes == [(4, 4, 3)] * 2
    assert [s.id for s in open_source(f"{tmp_path}/train/{{0..1}}.tar")] == ["0.tar/x", "1.tar/x"]


def test_a_missing_shard_is_named_at_once(tmp_path: Path) -> None:
    """The first number without a file stops before any work, even in an absurd range."""
    write_shard(tmp_path / "0.tar", [("x.png", png(0))])
    with pytest.raises(UsageError) as caught:
        open_source(f"{tmp_path}/{{0..999999999999}}.tar")
    assert caught.value.where == f"{tmp_path}/1.tar"


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.TAR.XZ", "a.tar.zst"])
def test_compressed_shards_are_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    """Random access needs plain tar files; the hint says how to get them."""
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    for source in (str(tmp_path / name), str(tmp_path)):
        with pytest.raises(UsageError, match="compressed") as caught:
            open_source(source)
        assert "gunzip" in str(caught.value.hint)


@pytest.mark.parametrize("keep", [0, 100, 1536 + 10, 2048 + 512 + 30])
def test_a_truncated_shard_names_itself_and_what_was_read(tmp_path: Path, keep: int) -> None:
    """Cut in a header, in data or at the very start, it is an error with the count so far."""
    path = Path(write_shard(tmp_path / "a.tar", numbered(4)))
    path.write_bytes(path.read_bytes()[:keep])
    samples: list[Sample] = []
    with pytest.raises(FungiError) as caught:
        samples.extend(open_source(str(path)))
    assert caught.value.exit_code == 1
    assert caught.value.where == path
    count = 1 if keep > 2048 else 0
    assert f"after {count} whole sample" in str(caught.value.found)


def test_a_shard_without_end_marks_is_whole(tmp_path: Path) -> None:
    """Some writers leave out the zero blocks at the end; nothing is lost with them."""
    path = Path(write_shard(tmp_path / "a.tar", numbered(2)))
    path.write_bytes(path.read_bytes()[: 4 * 1024])
    assert len(list(open_source(str(path)))) == 2


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    """One wrong byte in the middle is an error, not a shorter data set."""
    path = Path(write_shard(tmp_path / "a.tar", numbered(4)))
    content = bytearray(path.read_bytes())
    content[2048 + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(FungiError, match="bad header at byte 2048"):
        list(open_source(str(path)))


def test_a_negative_size_does_not_lead_in_circles(tmp_path: Path) -> None:
    """A member that claims to end before it starts is damage, not an endless archive."""
    path = Path(write_shard(tmp_path / "a.tar", numbered(2)))
    content = bytearray(path.read_bytes())
    header = content[1024:1536]
    header[124:136] = b"\xff" + (256**11 - 1024).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(content[:1024] + header + content[1536:])
    with pytest.raises(FungiError, match="negative size"):
        list(open_source(str(path)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("k.json", b"{not json"),
        ("k.json", b"\xff\xfe\xff"),
        ("k.json", b"[" * 100_000),
        ("k.cls", b"caf\xe9"),
        ("k.cls", b"\0\0\0\1"),
        ("k.CLS", b"x" * (1 << 17)),
    ],
)
def test_a_broken_sidecar_is_one_failed_input(tmp_path: Path, name: str, content: bytes) -> None:
    """Its item is listed without a label, and says why when it is read; the others are sound."""
    others = [("j.png", png(1)), ("j.cls", b"1"), ("l.png", png(2)), ("l.json", b'{"label": 2}')]
    members = [*others[:2], (name, content), ("k.png", png(0)), *others[2:]]
    source = open_source(write_shard(tmp_path / "a.tar", members))
    samples = list(source)
    assert [sample.label for sample in samples] == ["1", None, "2"]
    with pytest.raises(ImageError, match=f"{name} cannot be used"):
        read_item(Images(), source.root, samples[1].uri)
    absolute = absolute_uri(source.root, samples[2].uri)
    assert read_item(Images(), "/", absolute)[0, 0, 0] == 2


def test_a_shard_packed_anew_gives_no_other_item(tmp_path: Path) -> None:
    """Where the old place has another member of the same size, reading it says so."""
    members = [(f"{'d/' * 60}{n}.png", png(n)) for n in range(3)]
    source = open_source(write_shard(tmp_path / "a.tar", members))
    before = list(source)
    write_shard(tmp_path / "a.tar", [members[1], members[0], members[2]])
    for sample in before[:2]:
        with pytest.raises(ImageError, match="another one than when it was listed"):
            read_item(Images(), source.root, sample.uri)
    assert read_item(Images(), source.root, before[2].uri)[0, 0, 0] == 2
    assert [read_item(Images(), source.root, s.uri)[0, 0, 0] for s in source] == [1, 0, 2]


def test_a_uri_beyond_the_end_is_an_image_error(tmp_path: Path) -> None:
    """A shard that was replaced by a shorter one gives an error per image, no garbage."""
    path = write_shard(tmp_path / "a.tar", numbered(1))
    for offset, size in ((10**9, 5), (0, 10**17)):
        with pytest.raises(ImageError, match="shard ends before"):
            read_item(Images(), str(tmp_path), f"a.tar#offset={offset}&size={size}&ext=png")
    with pytest.raises(ImageError, match="not an image"):
        read_item(Images(), str(tmp_path), f"{Path(path).name}#offset=0&size=300&ext=png")


@given(damage=st.lists(st.tuples(st.integers(0, 10239), st.integers(0, 255)), max_size=6))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_gives_samples_or_a_fungi_error(
    tmp_path: Path, damage: list[tuple[int, int]]
) -> None:
    """Overwriting any bytes of a shard never lets another exception out."""
    path = tmp_path / "a.tar"
    content = bytearray(Path(write_shard(path, numbered(4))).read_bytes())
    for position, value in damage:
        content[position] = value
    path.write_bytes(content)
    try:
        samples = list(TarSource([str(path)], str(tmp_path), Images.suffixes))
    except FungiError as error:
        assert error.where == path
    else:
        assert all(isinstance(sample, Sample) and sample.bytes is not None for sample in samples)
