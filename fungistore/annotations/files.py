"""A file of a mask -> the class of each pixel: indexed, grey, or by a table of colours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from fungistore.annotations.palettes import VOID, Colour, lookup
from fungistore.choices import Orientation
from fungistore.errors import ItemError
from fungistore.modalities.image.decode import MAX_PIXELS, measure_image, turn_of
from fungistore.modalities.image.formats import find_decoder
from fungistore.modalities.reading import open_item, reason_of

MASK_SUFFIXES = ("png", "bmp", "tif", "tiff", "gif")  # what stores pixels as they are
# kinds of files whose pixels have other values than were drawn, as Pillow calls them
LOSSY = frozenset({"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "HEIF", "JXL"})
LOSSY_TIFF = frozenset({"jpeg", "webp", "tiff_jpeg"})
SIDEWAYS = frozenset(
    (
        *(Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE),
        *(Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270),
    )
)
SHOWN = 3
STEP = (
    "grey step"  # what an image's `info` calls the step between its grey values, as Pillow has it
)
GREY_STEPS = {"L;2": 85, "L;4": 17, "L;2R": 85, "L;4R": 17}  # of 2 and 4 bits, spread over 0 to 255
Problem = Literal["missing", "ambiguous", "unreadable", "image", "size", "colours", "index"]
Values = NDArray[np.uint16]


class MaskError(ItemError):
    """A mask that cannot be used; `problem` says why in a word."""

    def __init__(self, problem: Problem, what: str) -> None:
        super().__init__(what)
        self.problem = problem


@dataclass(frozen=True)
class MaskRules:
    """What decides the classes of a mask's pixels.

    Attributes:
        count: how many classes there are; None where any index may come.
        void: the value of a file that is not judged; None where none is.
        colours: where colours stand for classes.
        orientation: whether a mask belongs to the upright image, or to its pixels as stored.
    """

    count: int | None
    void: int | None
    colours: tuple[Colour, ...] = ()
    orientation: Orientation = "upright"


@dataclass(frozen=True)
class Place:
    """Where a file is: a uri, and what a relative one starts from."""

    root: str
    uri: str


def read_mask(place: Place, image: Place, rules: MaskRules) -> Values:
    """Return the classes [H, W] of an upright image's pixels, VOID where they are not judged.

    Args:
        place: of the mask.
        image: that it belongs to; its header alone is read.
        rules: what decides the classes.

    Raises:
        MaskError: it cannot be used.
    """
    loaded = load_mask(place)
    width, height, turn = _measured(image)
    if turn is not None and rules.orientation == "stored":
        loaded = loaded.transpose(turn)
    is_sideways = turn in SIDEWAYS
    size = (height, width) if is_sideways else (width, height)
    if loaded.size != size:
        said = f"it is {loaded.width} x {loaded.height}, and the image {size[0]} x {size[1]}"
        other = size[::-1]
        if is_sideways and loaded.size == other:
            said += " once it is turned upright (EXIF); if masks were drawn on the pixels as they "
            said += "are stored, --orientation stored"
        raise MaskError("size", f"another size: {said}")
    with _explained():
        return classes_of(loaded, rules)


def load_mask(place: Place) -> Image.Image:
    """Return a mask as a Pillow image, upright after its own EXIF orientation.

    Raises:
        MaskError: it cannot be read.
    """
    with _explained():
        with open_item(place.root, place.uri) as stream:
            content = stream.read()
        stream = BytesIO(content)
        with find_decoder(stream)(stream) as image:
            if image.format in LOSSY or image.info.get("compression") in LOSSY_TIFF:
                raise MaskError(
                    "unreadable",
                    f"{image.format} changes the values of pixels: "
                    "save masks as PNG, from the start",
                )
            if image.width * image.height > MAX_PIXELS:
                raise MaskError("unreadable", f"{image.width} x {image.height} pixels")
            step = _grey_step(image)
            loaded = image.load()
            picture = loaded if isinstance(loaded, Image.Image) else image
            picture.info[STEP] = step
            turn = turn_of(picture)
            return picture.transpose(turn) if turn is not None else picture.copy()


def classes_of(image: Image.Image, rules: MaskRules) -> Values:
    """Return the classes of a loaded mask's pixels.

    Raises:
        MaskError: colours that the table lacks, or that no table explains; an index without class.
    """
    if rules.colours:
        pixels = _colours(image)
        indices, is_known = lookup(rules.colours, pixels)
        if not is_known.all():
            unknown = np.unique(pixels[~is_known].reshape(-1, 3), axis=0)
            names = ", ".join(f"({r}, {g}, {b})" for r, g, b in unknown[:SHOWN].tolist())
            more = ", ..." if len(unknown) > SHOWN else ""
            raise MaskError("colours", f"colours that the table lacks: {names}{more}")
        return np.asarray(indices, np.uint16)
    return _judged(values_of(image), rules)


def values_of(image: Image.Image) -> NDArray[Any]:
    """Return the values [H, W] of an indexed or grey mask, as integers.

    Raises:
        MaskError: it has colours, or fractions.
    """
    if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64 if image.mode.startswith("I") else np.uint8)
        return values // image.info.get(STEP, 1)
    if image.mode == "F":
        raise MaskError("unreadable", "floating-point pixels are no indices")
    pixels = _colours(image)
    if not (pixels == pixels[..., :1]).all():
        raise MaskError(
            "colours", "it is in colours, and no table says of which classes: --colors FILE, or voc"
        )
    return pixels[..., 0]


def encode_mask(classes: Values) -> bytes:
    """Return classes as a PNG: of 8 bits where 255 is free for VOID, else of 16."""
    judged = classes[classes != VOID]
    if not judged.size or judged.max() < 255:
        grey = Image.fromarray(np.where(classes == VOID, 255, classes).astype(np.uint8))
    else:
        grey = Image.fromarray(classes)
    stream = BytesIO()
    grey.save(stream, "PNG")
    return stream.getvalue()


def decode_mask(content: bytes) -> Values:
    """Undo `encode_mask`."""
    with PngImageFile(BytesIO(content)) as image:
        image.load()
        values = np.asarray(image).astype(np.uint16)
        if image.mode == "L":
            values[values == 255] = VOID
        return values


def _grey_step(image: Any) -> int:
    """Return what separates neighbouring grey values of an image that is not loaded yet."""
    tiles = getattr(image, "tile", ())
    options = tiles[0][3] if tiles else None
    raw = options[0] if isinstance(options, tuple) and options else options
    return GREY_STEPS.get(raw, 1) if isinstance(raw, str) else 1


def _judged(values: NDArray[Any], rules: MaskRules) -> Values:
    is_void = np.zeros(values.shape, bool) if rules.void is None else values == rules.void
    most = VOID if rules.count is None else rules.count
    is_odd = ~is_void & ((values < 0) | (values >= most))
    if is_odd.any():
        odd = ", ".join(map(str, np.unique(values[is_odd])[:SHOWN].tolist()))
        known = f"0 to {most - 1}" + ("" if rules.void is None else f", and {rules.void} is void")
        raise MaskError("index", f"values without a class: {odd}; classes are {known}")
    classes = values.astype(np.uint16)
    classes[is_void] = VOID
    return classes


def _colours(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        raise MaskError("colours", "16-bit grey has no colours")
    if image.mode != "P" and image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise MaskError("colours", "transparent pixels have no colour")
    if image.mode == "P":  # an entry's own colour, transparent or not
        palette = image.getpalette("RGB") or []
        table = np.zeros((256, 3), np.uint8)
        table[: len(palette) // 3] = np.array(palette, np.uint8).reshape(-1, 3)
        return np.asarray(table[np.asarray(image)])
    return np.asarray(image.convert("RGB"))


def _measured(image: Place) -> tuple[int, int, Image.Transpose | None]:
    try:
        with open_item(image.root, image.uri) as stream:
            return measure_image(stream)
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise MaskError("image", f"its image cannot be read: {reason_of(error)}") from error


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except MaskError:
        raise
    except OSError as error:
        is_gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
        said = "there is no such file" if is_gone else f"it cannot be read: {reason_of(error)}"
        raise MaskError("missing" if is_gone else "unreadable", said) from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise MaskError("unreadable", f"it cannot be read: {reason_of(error)}") from error
