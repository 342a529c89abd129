"""Every refusal's hint fits its cause: what people give, and the words that help them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fungistore.errors import FungiError, UsageError
from fungistore.exchange.import_ import import_features
from fungistore.exchange.options import ImportOptions
from fungistore.extraction.measure import refuse_empty
from fungistore.modalities.modality import find_modality
from fungistore.names import out_of_order, suffix_of
from fungistore.sources.advice import common_reason
from fungistore.sources.opening import OF_FILES, open_source
from fungistore.store.store import Store

IMAGES = find_modality("image")

# What is given as SOURCE, beside a folder `pets` with cat/1.jpg, and words of the hint.
REFUSED = {
    "https://host/pets.zip": ("copy it to a disk", "curl"),
    "HTTP://host/pets": ("column `path`", "stdin"),
    "file:///data/my%20pets": ("/data/my pets",),
    "ftp://host/pets": ("ftp:// are not read", "copy it to a disk"),
    "hdfs://host/pets": ("copy it to a disk",),
    "~/pets": ("~ was not expanded", "home/pets"),
    "$HOME/pets": ("variable", "home/pets"),
    "%USERPROFILE%/pets": ("variable",),
    "'pets'": ("without the quotes", "'pets'"),
    "“pets”": ("without the quotes",),
    " pets": ("without the blanks",),
    "pets ": ("without the blanks", "'pets'"),
    "pets\r": ("without the blanks",),
    "\ufeffpets": ("byte order mark",),
    "C:\\Users\\me\\pets": ("Windows", "/mnt/c/Users/me/pets"),
    "pets\\cat": ("slashes", "pets/cat"),
    "pets/*.jpg": ("pattern", "find"),
    "petz": ("did you mean 'pets'",),
    "nowhere/at/all": ("current folder",),
    "pets.zip": ("unzip pets.zip",),
    "my pets.zip": ("unzip 'my pets.zip'",),
    "pets.tar.gz": ("unpack",),
    "pets.tgz": ("unpack",),
    "pets.7z": ("7z x",),
    "pets.rar": ("unrar",),
    "table.csv.gz": ("gunzip",),
    "one.jpg": ("folder that holds", "echo one.jpg | fungi extract - STORE"),
    "list.txt": ("fungi extract - STORE < list.txt",),
    "table.xlsx": ("save the sheet as .csv",),
    "coco.json": ("COCO", "manifest"),
    "plain.json": ("JSON is not read", "manifest"),
    "rows.feather": ("manifest",),
    "vectors.npy": ("fungi import vectors.npy STORE",),
    "weights.pt": ("fungi import",),
    "film.mp4": ("frames", "ffmpeg"),
    "photo.NEF": ("RAW",),
    "page.pdf": ("render",),
    "talk.mp3": ("recordings", "--model"),
    "what.bin": ("manifest",),
    "cubs:pets": ("did you mean 'cub'",),
    "new.fungi": ("source comes first",),
    "old.fungi": ("source comes first",),
}
EMPTY: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing": ((), "the folder is empty"),
    "videos": (("a.mp4", "b.MOV"), "frames"),
    "photographs": (("a.CR2",), "RAW"),
    "phones": (("a.heic",), "extra"),  # where no extra that reads it is installed
    "shards in folders": (("a/x-0.tar", "b/x-1.tar"), "give one of them"),
    "archives": (("a/b.zip",), "unpack"),
    "a manifest": (("a/m.csv",), "give the manifest"),
    "digests": (("0af31", "77bc2"), "suffix"),
    "sounds": (("a.wav", "b.flac"), "a --model of recordings"),
    "something": (("a.xyz",), "--help"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what people have beside their images, as the current one."""
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "1.jpg").write_bytes(b"x")
    (tmp_path / "home" / "pets").mkdir(parents=True)
    for name in REFUSED:
        if "." in name and not set(name) & set("/\\"):
            (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": []}')
    for name in ("old.fungi", "new.fungi"):
        (tmp_path / name).unlink()
    (tmp_path / "old.fungi").mkdir()
    (tmp_path / "old.fungi" / "store.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_what_people_give_as_a_source_gets_a_hint_that_fits(here: Path) -> None:
    """Each is refused before anything is loaded, and its hint has the words that help."""
    for source, words in REFUSED.items():
        with pytest.raises(UsageError) as caught:
            open_source(source)
        hint = str(caught.value.hint)
        assert all(word in hint for word in words), (source, hint)


@pytest.mark.parametrize("name", OF_FILES)
def test_a_reader_that_is_named_says_what_is_wrong_with_its_path(name: str, here: Path) -> None:
    """A path that is not there, none at all, and one of something else: each with what to try."""
    with pytest.raises(UsageError, match="no such file") as missing:
        open_source(f"{name}:nowhere.x")
    assert "relative paths" in str(missing.value)
    with pytest.raises(UsageError, match="expanded"):
        open_source(f"{name}:~/nowhere.x")
    with pytest.raises(UsageError, match="no path was given"):
        open_source(f"{name}:")
    (here / "junk.x").write_bytes(b"junk" * 50)
    with pytest.raises(FungiError) as odd:
        list(open_source(f"{name}:junk.x"))
    assert odd.value.hint, odd.value


def test_a_folder_without_images_says_what_is_there_instead(tmp_path: Path) -> None:
    """Empty, of videos, of archives, of shards in folders: each needs another step."""
    for name, (files, word) in EMPTY.items():
        if IMAGES.suffixes & {suffix_of(file) for file in files}:
            continue
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(b"x")
        source = open_source(folder)
        assert list(source) == []
        store = Store.open_or_create(tmp_path / f"{name}.fungi")
        with pytest.raises(UsageError) as caught:
            refuse_empty(store, source, IMAGES)
        assert word in str(caught.value.hint), name


def make(*files: str) -> Callable[[Path], None]:
    """Return what makes files below a folder."""

    def write(folder: Path) -> None:
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(b"x")

    return write


LISTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "\ufeffa.jpg": (make("a.jpg"), "byte order mark"),
    "cat\\a.jpg": (make("cat/a.jpg"), "slashes"),
    '"a.jpg"': (make("a.jpg"), "without the quotes"),
    "~/a.jpg": (make(), "~ was not expanded"),
    "ftp://host/a.jpg": (make(), "copy it to a disk"),
    "file:///a.jpg": (make(), "give the path alone"),
    "a.jpg ": (make("a.jpg"), "without the blanks"),
    "cat/a.jpg": (make("images/cat/a.jpg"), "below images"),
    "cat/b.jpg": (make("../cat/b.jpg"), "below .."),
    "dog/b.jpg": (make("../images/dog/b.jpg"), "below ../images"),
    "top/b.jpg": (make("b.jpg"), "it is there as 'b.jpg'"),
    "0af3": (make("0af3.png"), "suffix"),
    "A.JPG": (make("a.jpg"), "another case"),
}


def test_a_list_of_which_nothing_is_found_says_why(tmp_path: Path) -> None:
    """The common reason is looked for in the paths as they were given."""
    for number, (path, (write, word)) in enumerate(LISTS.items()):
        root = tmp_path / str(number) / "root"
        root.mkdir(parents=True)
        write(root)
        reason = common_reason(str(root), [path], IMAGES)
        assert word in str(reason), (path, reason)
    (tmp_path / "b.jpg").write_bytes(b"x")
    assert common_reason(str(tmp_path), ["b.jpg"], IMAGES) is None  # it is there, and unreadable
    assert common_reason(str(tmp_path), ["/nowhere/c.jpg"], IMAGES) is None


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["part_1.npy", "part_10.npy", "part_2.npy"], ("part_10.npy", "part_2.npy")),
        (["a-9-of-10.npy", "a-10-of-10.npy"], None),
        (["x/2.npy", "x/1.npy"], ("x/2.npy", "x/1.npy")),
        (["part_01.npy", "part_02.npy", "part_10.npy"], None),
        (["train.npy", "test.npy"], None),
        (["b2.npy", "a1.npy"], None),
        (["v1_3.npy", "v1_12.npy", "v2_1.npy"], None),
        ([], None),
    ],
)
def test_numbered_names_have_an_order(names: list[str], wrong: tuple[str, str] | None) -> None:
    """As a shell lists them, ten comes before two."""
    assert out_of_order(names) == wrong


def test_parts_in_the_order_of_letters_are_refused(tmp_path: Path) -> None:
    """Their rows would get other rows' labels; those who mean it say so."""
    for number in range(11):
        np.save(tmp_path / f"part_{number}.npy", np.full((1, 2), number, np.float32))
    (tmp_path / "t.csv").write_text("id\n" + "".join(f"i{n}\n" for n in range(11)))
    files, store = sorted(tmp_path.glob("part_*.npy")), tmp_path / "s.fungi"
    options = ImportOptions(table=tmp_path / "t.csv")
    with pytest.raises(UsageError, match="numbered") as caught:
        import_features(files, store, options)
    assert "ls -v" in str(caught.value.hint)
    assert not store.exists()
    given = ImportOptions(table=tmp_path / "t.csv", order="given")
    assert import_features(files, store, given).matched == 11


LISTING = """
import sys
from fungistore.sources.opening import OF_FILES, open_source
for source in sys.argv[1:]:
    for s in open_source(source):
        print(ascii((s.id, s.uri, s.label, s.split, s.bytes)))
"""
LOCALES = (
    {"LC_ALL": "C.UTF-8"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "tr_TR.ISO-8859-9", "LANGUAGE": "tr"},
    {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"},
)


@pytest.mark.slow
def test_identity_does_not_depend_on_the_locale(tmp_path: Path) -> None:
    """Ids, labels and what is found are the same under any, for names in any encoding."""
    for name in (b"TRAIN/caf\xe9", "Valid/I\u0130\u0131".encode(), "test/\U0001f600".encode()):
        folder = os.path.join(os.fsencode(tmp_path), b"images", name)
        os.makedirs(folder)
        for file in (b"caf\xe9.JPG", "\u0130i.jpg".encode()):
            with open(os.path.join(folder, file), "wb") as stream:
                stream.write(b"x")
    text = "Path,Label\nimages/Valid/I\u0130\u0131/\u0130i.jpg,\u0130I\n"
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", LISTING, str(tmp_path / "images"), str(tmp_path / "m.csv")]
    told = set()
    for locale in LOCALES:
        plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(command, env=plain | locale, capture_output=True, check=False)
        assert done.returncode == 0, (locale, done.stderr)
        told.add(done.stdout)
    (lines,) = told
    assert len(lines.splitlines()) == 7
    assert b"bytes:TRAIN/caf%E9/caf%E9.JPG" in lines
    assert b"None, 1)" not in lines.splitlines()[0]
