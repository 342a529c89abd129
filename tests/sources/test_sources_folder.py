"""Folder sources: order, labels, splits, links, odd names, and folders that cannot be listed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fungistore.location import locate, path_to_uri
from fungistore.modalities.image.images import Images
from fungistore.modalities.reading import read_item
from fungistore.sources.folder import FolderSource
from fungistore.sources.labels import sort_label_names
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Sample


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def images_in(root: Path) -> FolderSource:
    return FolderSource(str(root), Images.suffixes)


def rows(root: Path) -> list[tuple[str, str | None, str | None]]:
    return [(sample.id, sample.split, sample.label) for sample in images_in(root)]


def ids(root: Path) -> list[str]:
    return [sample.id for sample in images_in(root)]


def test_entries_come_sorted_by_the_bytes_of_their_names(tmp_path: Path) -> None:
    """Within each folder, files and folders mixed, order is by byte value: Z, a, é, 😀."""
    names = [
        "z.jpg",
        "a/1.jpg",
        "a/10.jpg",
        "a/2.jpg",
        "Z.jpg",
        "é.jpg",
        "a-b.jpg",
        "\uffff.jpg",
        "😀.jpg",
    ]
    touch(tmp_path, *names)
    expected = ["Z.jpg", "a/1.jpg", "a/10.jpg", "a/2.jpg", "a-b.jpg", "z.jpg"]
    assert ids(tmp_path) == [*expected, "é.jpg", "\uffff.jpg", "😀.jpg"]
    assert ids(tmp_path) == ids(tmp_path)


def test_a_sample_knows_its_size_and_time(tmp_path: Path) -> None:
    """bytes and mtime are those of the file; the root is absolute and the uri relative to it."""
    touch(tmp_path, "cats/1.jpg")
    os.utime(tmp_path / "cats/1.jpg", (5, 1234.5))
    source = images_in(tmp_path)
    assert source.root == str(tmp_path)
    assert list(source) == [Sample("cats/1.jpg", "cats/1.jpg", "cats", None, 5, 1234.5)]


def test_only_visible_images_count(tmp_path: Path) -> None:
    """Extensions count in any case; hidden files, hidden folders and other files are skipped."""
    touch(tmp_path, "a.JPG", "b.WebP", "c.txt", "d", ".e.jpg", ".git/f.jpg", "g.jpg.part", "jpg")
    assert ids(tmp_path) == ["a.JPG", "b.WebP"]


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path: Path) -> None:
    """So photographs in a format that is not read are not left out without a word."""
    touch(tmp_path, "a.JPG", "b/1.XCF", "b/2.xcf", "b/c.txt", "b/notes", ".DS_Store")
    source = images_in(tmp_path)
    for _ in range(2):  # each time anew
        assert len(list(source)) == 1
        assert source.ignored() == {".xcf": 2, ".txt": 1, "without a suffix": 1}
    touch(tmp_path / "pure", "a.jpg")
    pure = images_in(tmp_path / "pure")
    assert len(list(pure)) == 1
    assert pure.ignored() == {}


def test_the_first_folder_is_the_label(tmp_path: Path) -> None:
    """Deeper folders keep the label of the first, and files of the root have none."""
    touch(tmp_path, "cats/x/y/1.jpg", "dogs/2.jpg", "3.jpg")
    assert rows(tmp_path) == [
        ("3.jpg", None, None),
        ("cats/x/y/1.jpg", None, "cats"),
        ("dogs/2.jpg", None, "dogs"),
    ]
    assert images_in(tmp_path).label_names() == ["cats", "dogs"]


def test_split_folders_are_recognised(tmp_path: Path) -> None:
    """train, val, valid, validation and test above class folders are splits, valid being val."""
    touch(
        tmp_path, "train/b/1.jpg", "valid/a/2.jpg", "validation/a/3.jpg", "test/4.jpg", "more/5.jpg"
    )
    assert rows(tmp_path) == [
        ("more/5.jpg", None, "more"),
        ("test/4.jpg", "test", None),
        ("train/b/1.jpg", "train", "b"),
        ("valid/a/2.jpg", "val", "a"),
        ("validation/a/3.jpg", "val", "a"),
    ]
    assert images_in(tmp_path).label_names() == ["a", "b", "more"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """Among other classes, a folder named like a split without folders in it is a class."""
    touch(tmp_path, "bus/1.jpg", "train/2.jpg")
    assert rows(tmp_path) == [("bus/1.jpg", None, "bus"), ("train/2.jpg", None, "train")]
    assert images_in(tmp_path).label_names() == ["bus", "train"]


def test_splits_need_no_classes(tmp_path: Path) -> None:
    """Where all folders are named like splits, they are splits of images without labels."""
    touch(tmp_path, "train/1.jpg", "test/2.jpg")
    assert rows(tmp_path) == [("test/2.jpg", "test", None), ("train/1.jpg", "train", None)]
    assert images_in(tmp_path).label_names() == []


def test_split_names_count_at_the_first_level_only(tmp_path: Path) -> None:
    """A class may contain a folder called test, and a split a class called val."""
    touch(tmp_path, "train/val/1.jpg", "cats/test/2.jpg")
    assert rows(tmp_path) == [
        ("cats/test/2.jpg", None, "cats"),
        ("train/val/1.jpg", "train", "val"),
    ]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """Linked files and folders are read, even twice; a link to a folder around it is left out."""
    root = tmp_path / "root"
    touch(root, "a/1.jpg")
    touch(tmp_path, "elsewhere/2.jpg")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to("a")
    (root / "d.jpg").symlink_to("a/1.jpg")
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "self").symlink_to("self")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "b")
    assert ids(root) == ["a/1.jpg", "b/2.jpg", "c/1.jpg", "d.jpg"]


def test_a_link_above_the_root_does_not_lead_back_into_it(tmp_path: Path) -> None:
    """Circles are cut by where folders really are, also if the root was given as a link."""
    touch(tmp_path, "real/a/1.jpg", "other/2.jpg")
    (tmp_path / "real/a/up").symlink_to("../..")
    (tmp_path / "link").symlink_to("real")
    assert ids(tmp_path / "real") == ["a/1.jpg", "a/up/other/2.jpg"]
    assert ids(tmp_path / "link") == ids(tmp_path / "real")


def test_a_dangling_link_is_a_sample_without_a_size(tmp_path: Path) -> None:
    """A link to nothing is not dropped silently; reading it will say that it is missing."""
    (tmp_path / "1.jpg").symlink_to("nothing")
    assert list(images_in(tmp_path)) == [Sample("1.jpg", "1.jpg")]


def test_pipes_are_no_images(tmp_path: Path) -> None:
    """A named pipe called .jpg is left out."""
    os.mkfifo(tmp_path / "1.jpg")
    assert ids(tmp_path) == []


def test_names_that_are_not_utf8_are_storable_and_readable(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are percent-encoded in id, uri and label, and read back."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    Image.new("RGB", (2, 2), "red").save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", folder + b"/100%\xff.png")
    source = images_in(tmp_path)
    (sample,) = source
    assert sample.id == sample.uri == "bytes:caf%E9/100%25%FF.png"
    assert sample.label == "bytes:caf%E9"
    assert source.label_names() == [sample.label]
    assert read_item(Images(), source.root, sample.uri).shape == (2, 2, 3)


@given(name=st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_every_path_has_a_storable_uri_that_leads_back(name: bytes) -> None:
    """uri -> location undoes path -> uri for any bytes, and the uri is valid Unicode."""
    uri = path_to_uri(os.fsdecode(name))
    uri.encode()
    assert os.fsencode(locate("/", uri).path) == os.fsencode(str(Path("/", os.fsdecode(name))))


@pytest.mark.parametrize(
    "path", ["bytes:a.jpg", "a.tar#offset=1&size=2&ext=jpg", "100%.jpg", "ü.jpg"]
)
def test_paths_that_look_like_other_uris_are_still_paths(path: str) -> None:
    """A file named like one of the schemes is found under its own name."""
    location = locate("/data", path_to_uri(path))
    assert (location.path, location.size) == (f"/data/{path}", None)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_folder_that_cannot_be_listed_is_named(open_folder: Path) -> None:
    """The error says which folder, why, and what to do; earlier samples were already given."""
    touch(open_folder, "a/1.jpg", "locked/2.jpg")
    script = (
        "import os, sys\n"
        "from fungistore.errors import FungiError\n"
        "import fungistore.modalities.image.images\n"
        "from fungistore.sources.opening import open_source\n"
        "from fungistore.sources.reader import READERS; list(READERS.values())\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try:\n"
        "    for sample in open_source(sys.argv[1]): print(sample.id)\n"
        "except FungiError as error: print(error.exit_code, error)\n"
    )
    (open_folder / "locked").chmod(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(open_folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        (open_folder / "locked").chmod(0o755)
    locked = open_folder / "locked"
    assert done.stdout.splitlines() == [
        "a/1.jpg",
        "1 a folder of the source cannot be listed",
        f"  where: {locked}",
        "  found: Permission denied",
        f"  try: make it readable (chmod u+rx '{locked}'), or move it out of the source",
    ]


def test_an_empty_folder_has_no_samples(tmp_path: Path) -> None:
    """Emptiness is for the caller to judge."""
    source = open_source(str(tmp_path))
    assert (list(source), source.label_names()) == ([], [])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "-1", "010"], ["-1", "9", "010", "10"]),
        (["10", "9", "b"], ["10", "9", "b"]),
        (["b", "a", "b"], ["a", "b"]),
        (["9" * 5000, "1"], ["1", "9" * 5000]),
        (["²", "1"], ["1", "²"]),
        ([], []),
    ],
)
def test_label_names_sort_by_value_if_all_are_integers(
    names: list[str], expected: list[str]
) -> None:
    """Integers sort by value, anything else by code point, doubles count once."""
    assert sort_label_names(names) == expected
