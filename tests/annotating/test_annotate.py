"""Masks of a store's images: what PIL and NumPy read is what the store gives back."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fungi_cli.main import app
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import fungistore as fungi
from fungistore.annotating import writer
from fungistore.annotating.of_source import take_source_masks
from fungistore.annotations.files import MaskError, Place, load_mask
from fungistore.annotations.palettes import VOID, voc_colour
from fungistore.errors import FungiError, StoppedError, UsageError
from fungistore.machine.context import Context
from fungistore.report import Silent
from fungistore.sources.opening import open_source
from fungistore.store.listing import add_source
from fungistore.store.masks import read_masks_record
from fungistore.store.store import Store
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store

SIZE = (7, 5)  # width, height
Masks = Sequence[NDArray[Any]]


def indices(seed: int, classes: int = 4, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Random classes, with a line that is not judged."""
    values = np.random.default_rng(seed).integers(0, classes, size[::-1]).astype(np.uint8)
    values[0] = 255
    return values


def image(path: Path, size: tuple[int, int] = SIZE, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 99, 199)).save(path, **more)


def put(path: Path, values: NDArray[Any], mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if mode == "P":
        picture.putpalette([channel for n in range(256) for channel in voc_colour(n)])
    picture.save(path, **({"optimize": False} if path.suffix == ".GIF" else {}))


def listed(root: Path, source: str | Path) -> Store:
    """A store that lists a source, and has no features."""
    store = Store.open_or_create(root)
    add_source(store, open_source(source))
    return Store.open(root)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three images, of which two have an indexed mask in masks/."""
    for number in range(3):
        image(tmp_path / f"images/a/{number}.jpg")
    for number in range(2):
        put(tmp_path / f"masks/a/{number}.png", indices(number), "P")
    return listed(tmp_path / "s.fungi", tmp_path / "images")


def judged(values: NDArray[Any], void: int = 255) -> NDArray[np.uint16]:
    wide = values.astype(np.uint16)
    wide[values == void] = VOID
    return wide


def had(store: Store) -> dict[int, list[list[int]]]:
    masks = fungi.open_masks(store.root)
    return {int(row): masks.read(int(row)).tolist() for row in masks.rows}


# --- what files mean


def wide(values: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return np.where(values == 255, 65_535, 300 * values.astype(np.int64)).astype(np.uint16)


FORMATS: dict[str, tuple[Callable[[Path, NDArray[np.uint8]], None], str]] = {
    "indexed png": (lambda path, values: put(path, values, "P"), ".png"),
    "grey png": (put, ".png"),
    "16-bit png": (lambda path, values: put(path, wide(values)), ".png"),
    "grey as rgb": (lambda path, values: put(path, np.stack([values] * 3, -1)), ".png"),
    "bmp": (put, ".bmp"),
    "tiff": (put, ".tif"),
    "16-bit tiff": (lambda path, values: put(path, wide(values)), ".tiff"),
    "gif": (lambda path, values: put(path, values, "P"), ".GIF"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_classes_that_were_drawn(name: str, tmp_path: Path) -> None:
    """Values are indices, 255 (of 16 bits 65535) is void, and names are numbers."""
    save, suffix = FORMATS[name]
    image(tmp_path / "images/0.png")
    drawn = indices(3)
    save(tmp_path / f"masks/0{suffix}", drawn)
    store = listed(tmp_path / "s.fungi", tmp_path / "images")
    done = fungi.annotate(store.root, tmp_path / "masks")
    factor = 300 if "16" in name else 1
    expected = np.where(drawn == 255, VOID, drawn.astype(np.int64) * factor)
    np.testing.assert_array_equal(fungi.open_masks(store).read(0), expected)
    assert done.void == (65_535 if "16" in name else 255)
    assert done.classes == tuple(map(str, range(int(expected[expected < VOID].max()) + 1)))


TABLES = {
    "c.txt": "# mine\nsky 10 20 30\nwet road 0 0 0\nignore 1 2 3\n",
    "c.csv": "id,name,r,g,b\n0,sky,10,20,30\n1,wet road,0,0,0\n2,ignore,1,2,3\n",
    "camvid.txt": "10 20 30\tsky\n0 0 0\twet road\n1 2 3\tignore\n",
    "c.json": json.dumps({"sky": [10, 20, 30], "wet road": [0, 0, 0], "ignore": [1, 2, 3]}),
    "list.json": json.dumps(
        [
            {"name": "sky", "color": [10, 20, 30]},
            {"name": "wet road", "r": 0, "g": 0, "b": 0},
            {"name": "ignore", "color": [1, 2, 3]},
        ]
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_colours_stand_for_the_classes_of_a_table(name: str, tmp_path: Path) -> None:
    """Text, CSV and JSON; what is called ignore is not judged; one unknown colour skips a mask."""
    (tmp_path / name).write_text(TABLES[name])
    colours = np.array([[10, 20, 30], [0, 0, 0], [1, 2, 3]], np.uint8)
    numbers = np.random.default_rng(1).integers(0, 3, SIZE[::-1])
    for number in range(2):
        image(tmp_path / f"images/{number}.png")
    put(tmp_path / "masks/0.png", colours[numbers])
    odd = colours[numbers].copy()
    odd[1, 1] = (7, 7, 8)
    put(tmp_path / "masks/1.png", odd)
    store = listed(tmp_path / "s.fungi", tmp_path / "images")
    options = fungi.AnnotateOptions(colors=str(tmp_path / name))
    done = fungi.annotate(store.root, tmp_path / "masks", options)
    assert done.classes == ("sky", "wet road")
    assert had(store) == {0: np.where(numbers == 2, VOID, numbers).tolist()}
    assert dict(done.reasons) == {"colours": 1}
    assert "(7, 7, 8)" in done.failures[0]


def test_vocs_own_colours_are_known_by_name(tmp_path: Path) -> None:
    """A palette counts by its colours then, whatever its indices are."""
    drawn = np.array([[0, 1, 15], [20, 255, 2]], np.uint8)
    table = np.array([voc_colour(n) for n in range(256)], np.uint8)
    image(tmp_path / "images/0.png", (3, 2))
    image(tmp_path / "images/1.png", (3, 2))
    put(tmp_path / "masks/0.png", table[drawn])
    Image.fromarray(table[drawn]).quantize(8).save(tmp_path / "masks/1.png")
    store = listed(tmp_path / "s.fungi", tmp_path / "images")
    done = fungi.annotate(store.root, tmp_path / "masks", fungi.AnnotateOptions(colors="voc"))
    assert (done.classes[15], len(done.classes)) == ("person", 21)
    assert had(store) == dict.fromkeys((0, 1), judged(drawn).tolist())


def test_masks_of_black_and_white_are_two_classes(store: Store, tmp_path: Path) -> None:
    """255 is the object where there is nothing else but 0; --void 255 says otherwise."""
    drawn = [np.where(indices(n, 2) == 1, 255, 0).astype(np.uint8) for n in range(2)]
    for number, values in enumerate(drawn):
        put(tmp_path / f"masks/a/{number}.png", values)
    done = fungi.annotate(store.root, tmp_path / "masks")
    assert (done.classes, done.void) == (("0", "1"), None)
    assert had(store) == {n: (values // 255).tolist() for n, values in enumerate(drawn)}
    fungi.annotate(store.root, None, fungi.AnnotateOptions(void=255))
    assert had(store) == {n: judged(values).tolist() for n, values in enumerate(drawn)}


def test_names_and_void_are_those_that_are_given(store: Store, tmp_path: Path) -> None:
    """A file has a name a line; an index beyond the names skips the mask; void may be a name."""
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    options = fungi.AnnotateOptions(classes=(str(tmp_path / "names.txt"),), void="b")
    with pytest.raises(FungiError, match="none of 3 masks") as failed:  # 255 has no class now
        fungi.annotate(store.root, tmp_path / "masks", options)
    assert "255" in str(failed.value)
    assert fungi.status(store.root).masks is None
    done = fungi.annotate(
        store.root, tmp_path / "masks", fungi.AnnotateOptions(classes=("a", "b", "c", "d"))
    )
    assert (done.classes, done.void, done.masks) == (("a", "b", "c", "d"), 255, 2)
    drawn = np.concatenate([indices(n).ravel() for n in range(2)])
    counts = np.bincount(drawn[drawn < 255], minlength=4)
    assert list(done.share.values()) == pytest.approx(counts / counts.sum(), abs=1e-5)
    renamed = fungi.annotate(store.root, None, fungi.AnnotateOptions(classes=("w", "x", "y", "z")))
    assert (renamed.read, renamed.classes) == (0, ("w", "x", "y", "z"))


def test_an_upright_image_has_an_upright_mask(tmp_path: Path) -> None:
    """Sizes are compared after the EXIF orientation; masks of stored pixels turn with it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image(tmp_path / "images/0.jpg", SIZE, exif=exif)
    upright = indices(1, size=SIZE[::-1])
    put(tmp_path / "upright/0.png", upright)
    put(tmp_path / "stored/0.png", np.rot90(upright))
    store = listed(tmp_path / "s.fungi", tmp_path / "images")
    with pytest.raises(FungiError, match="none of 1 mask") as failed:
        fungi.annotate(store.root, tmp_path / "stored")
    assert "--orientation stored" in str(failed.value)
    fungi.annotate(store.root, tmp_path / "upright")
    assert had(store) == {0: judged(upright).tolist()}
    stored = fungi.AnnotateOptions(orientation="stored")
    fungi.annotate(store.root, tmp_path / "stored", stored, restart=True)
    assert had(store) == {0: judged(upright).tolist()}


# --- which mask is whose


def test_a_mask_has_its_images_path_and_a_word_behind_it_at_most(tmp_path: Path) -> None:
    """Paths may start further up; what two masks, or two images, could mean is not guessed."""
    names = ["x/train/0.jpg", "x/train/1.jpg", "x/val/1.jpg", "x/train/2.png", "x/train/3.jpg"]
    for name in names:
        image(tmp_path / "images" / name)
    for name in ("train/0_mask.png", "train/1.png", "val/1-labels.tif", "train/2.png", "3.png"):
        put(tmp_path / "masks" / name, indices(len(name)))
    store = listed(tmp_path / "s.fungi", tmp_path / "images")
    done = fungi.annotate(store.root, tmp_path / "masks")
    assert (done.masks, done.skipped) == (5, 0)
    put(tmp_path / "masks/train/0.png", indices(1))
    (tmp_path / "masks/val/1-labels.tif").rename(tmp_path / "masks/1_seg.png")
    done = fungi.annotate(store.root)
    assert dict(done.reasons) == {"ambiguous": 1}
    assert "0_mask.png" in done.failures[0]
    assert done.masks == 4  # val/1 is still there under another name


def test_masks_beside_their_images_are_no_images_of_themselves(tmp_path: Path) -> None:
    """A folder of both: an image is never its own mask."""
    image(tmp_path / "both/0.png")
    put(tmp_path / "both/0_mask.png", indices(0))
    (tmp_path / "t.csv").write_text("path\nboth/0.png\n")
    store = listed(tmp_path / "s.fungi", tmp_path / "t.csv")
    assert fungi.annotate(store.root, tmp_path / "both").masks == 1


def test_a_manifests_column_names_masks_which_extract_takes_over(tmp_path: Path) -> None:
    """Relative to the manifest; an empty cell is an image without one, a missing file a skip."""
    for number in range(4):
        image(tmp_path / f"{number}.png")
    for number in (0, 3):
        put(tmp_path / f"m/{number}.png", indices(number))
    put(tmp_path / "m/3.png", indices(3, size=(3, 3)))
    table = "path,mask\n0.png,m/0.png\n1.png,\n2.png,m/2.png\n3.png,m/3.png\n"
    (tmp_path / "t.csv").write_text(table)
    store = listed(tmp_path / "s.fungi", tmp_path / "t.csv")
    said: list[str] = []
    done = take_source_masks(store, open_source(tmp_path / "t.csv"), "skip", Context(Said(said)))
    assert done is not None
    assert (done.masks, dict(done.reasons)) == (1, {"missing": 1, "size": 1})
    assert sum(line.startswith("masks: 1 mask of 4 images") for line in said) == 1
    assert [(one.row, one.error) for one in fungi.failed_inputs(store.root)] == [
        (2, "masks: missing"),
        (3, "masks: size"),
    ]
    shown = CliRunner().invoke(app, ["status", str(store.root)]).stdout
    assert "masks    1 of 4, 4 classes, void 255; skipped: 1 missing, 1 size" in shown
    with pytest.raises(FungiError, match="cannot be used"):
        take_source_masks(
            store_of(tmp_path / "u.fungi", tmp_path / "t.csv"),
            open_source(tmp_path / "t.csv"),
            "fail",
            Context(Silent()),
        )


def store_of(root: Path, source: Path) -> Store:
    return listed(root, source)


class Said:
    """A reporter that keeps what it is told."""

    def __init__(self, said: list[str]) -> None:
        self.notice = said.append

    def begin(self, what: str, total: int, done: int = 0) -> None: ...

    def advance(self, count: int) -> None: ...

    def end(self) -> None: ...


def test_a_column_that_names_no_files_is_no_column_of_masks(tmp_path: Path) -> None:
    """It is said, and its cells stay text."""
    image(tmp_path / "0.png")
    (tmp_path / "t.csv").write_text("path,mask\n0.png,yes\n")
    store = listed(tmp_path / "s.fungi", tmp_path / "t.csv")
    said: list[str] = []
    assert (
        take_source_masks(store, open_source(tmp_path / "t.csv"), "skip", Context(Said(said)))
        is None
    )
    assert "'yes'" in said[0]
    assert fungi.status(store.root).masks is None


# --- skips and errors


def test_masks_that_cannot_be_used_are_skipped_listed_and_exit_3(
    store: Store, tmp_path: Path
) -> None:
    """Damaged, of another size, missing beside others; --on-error fail stops, and JSON counts."""
    put(tmp_path / "masks/a/0.png", indices(0, size=(9, 9)))
    done = CliRunner().invoke(app, ["annotate", str(store.root), str(tmp_path / "masks"), "--json"])
    assert done.exit_code == 3
    assert json.loads(done.stdout)["reasons"] == {"missing": 1, "size": 1}
    (tmp_path / "masks/a/0.png").write_bytes((tmp_path / "masks/a/1.png").read_bytes()[:60])
    done = CliRunner().invoke(app, ["annotate", str(store.root)])
    assert (done.exit_code, "a/0.jpg" in done.stderr, "1 unreadable" in done.stdout) == (
        3,
        True,
        True,
    )
    words = ["annotate", str(store.root), str(tmp_path / "masks"), "--on-error", "fail"]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert verify_store(store.root).is_sound


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({}, "no masks in this folder"),
        ({"a/0.jpg": None}, "no masks in this folder"),
        ({"b/9.png": indices(0)}, "has the name of an image"),
        ({"a/0.png": np.zeros((5, 7, 3), np.uint8) + np.arange(3, dtype=np.uint8)}, "none of"),
    ],
)
def test_a_folder_that_gives_nothing_is_an_error(
    files: dict[str, NDArray[np.uint8] | None], what: str, store: Store, tmp_path: Path
) -> None:
    """And the store has no masks afterwards."""
    shutil.rmtree(tmp_path / "masks")
    (tmp_path / "masks").mkdir()
    for name, values in files.items():
        image(tmp_path / "masks" / name) if values is None else put(
            tmp_path / "masks" / name, values
        )
    with pytest.raises(FungiError, match=what):
        fungi.annotate(store.root, tmp_path / "masks")
    with pytest.raises(UsageError, match="the store has no masks"):
        fungi.open_masks(store.root)
    assert not verify_store(store.root).findings


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"colors": "vok"}, "vok"),
        ({"classes": "a,b,a"}, "--classes"),
        ({"void": "sky"}, "--void"),
        ({"void": -1}, "--void"),
        ({"colors": "voc", "classes": "a,b"}, "--classes"),
        ({"colors": "voc", "void": "sky"}, "--void"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, Any], where: str, store: Store, tmp_path: Path
) -> None:
    """Before a mask is read."""
    with pytest.raises(UsageError) as refused:
        fungi.annotate(store.root, tmp_path / "masks", fungi.AnnotateOptions(**options))
    assert where in str(refused.value.where)


# --- what stays, what comes anew


def test_only_masks_that_are_new_or_changed_are_read(store: Store, tmp_path: Path) -> None:
    """More images and other files; those whose files are gone stay; a digest tells the change."""
    fungi.annotate(store.root, tmp_path / "masks")
    masks = fungi.open_masks(store.root)
    before = [masks.digest([0]), masks.digest([1])]
    image(tmp_path / "images/a/3.jpg")
    listed(store.root, tmp_path / "images")
    for number in (1, 2, 3):
        put(tmp_path / f"masks/a/{number}.png", indices(10 + number, 6))
    done = fungi.annotate(store.root)
    assert (done.read, done.kept, done.masks, done.skipped) == (3, 1, 4, 0)
    masks = fungi.open_masks(store.root)
    assert masks.classes == tuple("012345")
    assert had(store)[1] == judged(indices(11, 6)).tolist()
    assert masks.digest([1]) != before[1]
    shutil.rmtree(tmp_path / "masks")
    done = fungi.annotate(store.root)
    assert (done.read, done.kept, done.gone, done.masks) == (0, 4, 4, 4)
    moved = store.root.rename(tmp_path / "elsewhere.fungi")
    assert fungi.open_masks(moved).read(0).tolist() == judged(indices(0)).tolist()


def many(tmp_path: Path, count: int) -> Store:
    for number in range(count):
        image(tmp_path / f"images/{number:03d}.png", (2, 2))
        put(tmp_path / f"masks/{number:03d}.png", np.full((2, 2), number % 3, np.uint8))
    return listed(tmp_path / "s.fungi", tmp_path / "images")


def test_a_stopped_run_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole blocks that were written count; a kill leaves files that nobody names, no damage."""
    store = many(tmp_path, 130)
    asked = iter([False, False, True])
    with pytest.raises(StoppedError):
        fungi.annotate(
            store.root, tmp_path / "masks", context=Context(Silent(), lambda: next(asked))
        )
    assert len(fungi.open_masks(store.root)) == 128
    with monkeypatch.context() as patch:
        patch.setattr(writer.MaskWriter, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            fungi.annotate(store.root)
    assert {one.kind for one in verify_store(store.root).findings} == {"orphan"}
    assert len(fungi.open_masks(store.root)) == 128
    done = fungi.annotate(store.root)
    assert (done.read, done.kept, done.masks) == (2, 128, 130)
    assert not verify_store(store.root).findings
    assert had(store) == {n: [[n % 3] * 2] * 2 for n in range(130)}


def killed(self: writer.MaskWriter) -> None:
    raise KeyboardInterrupt


def test_damage_is_found_and_made_again_from_the_files(tmp_path: Path) -> None:
    """A bit, a lost file, an edited record; what has no file any more is said to be lost."""
    store = many(tmp_path, 70)
    fungi.annotate(store.root, tmp_path / "masks")
    record = read_masks_record(store.folder())
    expected = had(store)
    first, second = sorted((store.root / "annotations/masks").iterdir())
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    second.unlink()
    assert {f.kind for f in verify_store(store.root).findings} == {"masks-damaged"}
    done = repair_store(store.root)
    assert len(done.repaired) == 2
    assert done.verification.is_sound
    assert had(store) == expected
    assert read_masks_record(store.folder()) == record
    (tmp_path / "masks/069.png").unlink()
    second.unlink()
    done = repair_store(store.root)
    assert "1 mask could not be read again" in done.verification.notes[-1]
    assert len(had(store)) == 69
    path = store.root / "annotations/masks.json"
    path.write_text(path.read_text().replace('"void": 255', '"void": 254'))
    (finding,) = verify_store(store.root).errors
    assert (finding.kind, finding.where) == ("masks-damaged", "annotations/masks.json")


def test_images_of_one_name_do_not_share_a_mask(tmp_path: Path) -> None:
    """Of two sources, or one in a folder: a whole path wins, and of two nobody knows."""
    for path in ("one/1.jpg", "one/2.jpg", "one/x/2.jpg", "two/1.jpg"):
        image(tmp_path / path)
    for number in (1, 2):
        put(tmp_path / f"masks/{number}.png", indices(number))
    store = listed(tmp_path / "s.fungi", tmp_path / "one")
    (tmp_path / "two/list.csv").write_text("path,id\n1.jpg,other\n")
    add_source(store, open_source(tmp_path / "two/list.csv"))
    done = fungi.annotate(store.root, tmp_path / "masks")
    (kept,) = had(Store.open(store.root))
    assert store.samples.take([kept])[0]["id"].startswith("2")
    assert done.reasons == {"ambiguous": 3}


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_gives_the_values_that_are_stored(bits: int, tmp_path: Path) -> None:
    """Pillow spreads them over 0 to 255: 3 of two bits would be void."""
    values = (np.arange(64) % 2**bits).reshape(8, 8)
    lines = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    raw = b"".join(b"\0" + int(line, 2).to_bytes(bits, "big") for line in lines)
    parts = [b"IHDR" + struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)]
    parts += [b"IDAT" + zlib.compress(raw), b"IEND"]
    chunks = [
        struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in parts
    ]
    image(tmp_path / "images/0.jpg", (8, 8))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    store = listed(tmp_path / "s.fungi", tmp_path / "images")
    fungi.annotate(store.root, tmp_path / "masks")
    np.testing.assert_array_equal(fungi.open_masks(store).read(0), values)


def test_read_anew_masks_count_until_all_are_read(store: Store, tmp_path: Path) -> None:
    """A stop under --restart, folders that are gone, files that cannot be used: none is lost."""
    fungi.annotate(store.root, tmp_path / "masks")
    before = had(store)
    with pytest.raises(StoppedError):
        fungi.annotate(store.root, restart=True, context=Context(stop=lambda: True))
    assert had(store) == before
    for path in (tmp_path / "masks/a").iterdir():
        path.write_text("no image")
    with pytest.raises(FungiError, match="can be used"):
        fungi.annotate(store.root, restart=True)
    assert had(store) == before
    shutil.rmtree(tmp_path / "masks")
    for options in (fungi.AnnotateOptions(), fungi.AnnotateOptions(void=3)):
        with pytest.raises(UsageError, match="only copies"):
            fungi.annotate(store.root, None, options, restart=options.void is None)
    assert had(store) == before


@pytest.mark.parametrize(
    ("name", "settings"),
    [("a.webp", {"lossless": False}), ("a.tif", {"compression": "jpeg"}), ("a.jpg", {})],
)
def test_masks_whose_pixels_were_changed_by_their_format_are_refused(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    """JPEG, also inside TIFF, and WebP: classes in them are others than were drawn."""
    Image.fromarray(np.full((8, 8, 3), 3, np.uint8)).save(tmp_path / name, **settings)
    place = Place(str(tmp_path), name)
    with pytest.raises(MaskError, match="changes the values of pixels"):
        load_mask(place)
