"""Images against Pillow's own results, and against every way in which a file can be broken."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fungistore.errors import ImageError, UsageError
from fungistore.modalities.image.decode import MAX_PIXELS
from fungistore.modalities.image.images import Images
from fungistore.modalities.reading import read_item, uri_of_file

Pixels = NDArray[np.uint8]
SHARED_TMP_PATH = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def pattern(height: int = 24, width: int = 40) -> Pixels:
    """An image that no flip or rotation leaves alone: red grows rightwards, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, 255 * (x + y < 12)], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(folder: Path, content: bytes, **options: int) -> Pixels:
    (folder / "image").write_bytes(content)
    return read_item(Images(**options), str(folder), "image")


def failure(folder: Path, content: bytes, **options: int) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(folder, content, **options)
    assert caught.value.where == "image"
    assert "\n" not in caught.value.what
    assert str(folder) not in caught.value.what
    return caught.value


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
def test_lossless_formats_give_the_stored_pixels(
    tmp_path: Path, kind: str, options: dict[str, object]
) -> None:
    """Every lossless format gives back exactly what was stored, as contiguous uint8 RGB."""
    found = read(tmp_path, encoded(Image.fromarray(pattern()), kind, **options))
    np.testing.assert_array_equal(found, pattern())
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "MPO"])
def test_lossy_formats_decode_as_pillow_does(tmp_path: Path, kind: str) -> None:
    """A photograph decodes to the same pixels as with Image.open."""
    content = encoded(Image.fromarray(pattern()), kind, quality=90)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(read(tmp_path, content), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "CMYK"])
def test_opaque_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    """Bilevel, grey, palette and CMYK pixels become what Pillow converts them to."""
    image = Image.fromarray(pattern()).convert(mode)
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    np.testing.assert_array_equal(
        read(tmp_path, encoded(image, kind)), np.asarray(image.convert("RGB"))
    )


def test_a_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    """Adobe's inverted CMYK JPEGs come out with their own colours, within JPEG's error."""
    content = encoded(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(content)).mode == "CMYK"
    found = read(tmp_path, content)
    np.testing.assert_allclose(found.reshape(-1, 3).mean(axis=0), (200, 40, 90), atol=4)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("RGBA", "TIFF"), ("LA", "PNG"), ("LA", "TIFF"), ("PA", "TIFF")],
)
def test_alpha_is_composited_over_white(tmp_path: Path, mode: str, kind: str) -> None:
    """Transparent pixels turn white whatever colour hides below; half transparent ones mix."""
    if mode == "PA":
        image = Image.new("P", (3, 1))
        image.putpalette([60, 60, 60])
        image.putdata([0, 0, 0])
        image = image.convert("PA")
    else:
        image = Image.new("RGBA", (3, 1), (60, 60, 60, 255)).convert(mode)
    image.putalpha(Image.frombytes("L", (3, 1), bytes([0, 128, 255])))
    found = read(tmp_path, encoded(image, kind))
    np.testing.assert_allclose(found[0, :, 0], [255, 157, 60], atol=1)


def test_transparent_palette_entries_turn_white(tmp_path: Path) -> None:
    """A palette's transparency is honoured, both as one index and as a table of alphas."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    expected = [[[255, 255, 255], [200, 100, 50]]]
    for kind, transparency in (("PNG", b"\x00\xff"), ("PNG", 0), ("GIF", 0)):
        content = encoded(image, kind, transparency=transparency)
        np.testing.assert_array_equal(read(tmp_path, content), expected)


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (9, 8, 7)), ("L", 9), ("1", 0)])
def test_a_transparent_colour_turns_white(
    tmp_path: Path, mode: str, colour: int | tuple[int, int, int]
) -> None:
    """PNG's tRNS colour is transparency too."""
    image = Image.new(mode, (2, 1), 1 if mode == "1" else 77 if mode == "L" else (77, 77, 77))
    image.putpixel((0, 0), colour)
    found = read(tmp_path, encoded(image, "PNG", transparency=colour))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 1, 0] == (255 if mode == "1" else 77)


def all_16_bit_values() -> NDArray[np.uint16]:
    return np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "big-endian TIFF", "PPM", "I"])
def test_16_bit_grey_is_scaled_and_rounded(tmp_path: Path, kind: str) -> None:
    """All 65536 grey values become round(value / 257), not clipped, in either byte order."""
    values = all_16_bit_values()
    if kind == "big-endian TIFF":
        raw = Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes())
        content = encoded(raw, "TIFF")
    elif kind == "I":
        content = encoded(Image.fromarray(values.astype(np.int32)), "TIFF")
    else:
        content = encoded(Image.fromarray(values), kind)
    expected = np.round(values / 257).astype(np.uint8)
    found = read(tmp_path, content)
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], expected)


def test_a_transparent_16_bit_grey_turns_white(tmp_path: Path) -> None:
    """tRNS counts at 16 bits as well: that one value is white, its neighbour is not."""
    rows = zlib.compress(b"\0" + struct.pack(">2H", 1000, 1001))
    content = png_header(2, 1, depth=16, colour=0) + png_chunk(b"tRNS", struct.pack(">H", 1000))
    found = read(tmp_path, content + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b""))
    assert found[0, :, 0].tolist() == [255, 4]


def test_pixels_without_an_agreed_range_are_refused(tmp_path: Path) -> None:
    """Float and wide integer pixels are an error, not a guess."""
    floats = Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4))
    assert "floating-point" in failure(tmp_path, encoded(floats, "TIFF")).what
    for value in (70_000, -1):
        wide = Image.fromarray(np.full((4, 4), value, dtype=np.int32))
        assert "32-bit" in failure(tmp_path, encoded(wide, "TIFF")).what


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, kind: str) -> None:
    """For each of the 8 orientations, stored pixels are turned so that the pattern is upright."""
    undo: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    image = Image.fromarray(pattern())
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    found = read(tmp_path, content)
    np.testing.assert_array_equal(found, undo[orientation](pattern()))
    oracle = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(found, np.asarray(oracle.convert("RGB")))
    assert found.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_16_bit_image_is_turned_too(tmp_path: Path, orientation: int) -> None:
    """Orientation holds for pixels that Pillow itself hardly handles."""
    values = all_16_bit_values()[:20, :30]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(values), "PNG", exif=exif)
    grey = Image.fromarray(np.round(values / 257).astype(np.uint8))
    grey.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(grey))
    np.testing.assert_array_equal(read(tmp_path, content)[..., 0], expected)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on the EXIF itself
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@given(exif=st.binary(max_size=60))
@SHARED_TMP_PATH
def test_corrupt_exif_does_not_fail_a_sound_image(tmp_path: Path, kind: str, exif: bytes) -> None:
    """Whatever bytes follow the EXIF signature, or stand in its place, the pixels are read."""
    # With a resolution of its own, a JPEG's EXIF is not read before the orientation is asked for.
    resolution = {"dpi": (72, 72)} if kind == "JPEG" else {}
    for start in (b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0"):
        content = encoded(Image.fromarray(pattern()), kind, exif=start + exif, **resolution)
        assert sorted(read(tmp_path, content).shape) == [3, 24, 40]


def test_exif_of_another_kind_of_file_is_ignored(tmp_path: Path) -> None:
    """Metadata that no EXIF reader accepts leaves the image as it is stored."""
    image = Image.fromarray(pattern())
    content = encoded(image, "JPEG", exif=b"Exif\0\0no tiff at all", dpi=(72, 72))
    assert read(tmp_path, content).shape == (24, 40, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_the_first_frame_of_several_is_read(tmp_path: Path, kind: str) -> None:
    """An animation, a stereo pair or a stack of pages gives its first image."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    found = read(tmp_path, encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    np.testing.assert_allclose(found[8, 8].astype(int), [255, 0, 0], atol=6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "AVIF"])
def test_a_truncated_image_is_an_error(tmp_path: Path, kind: str) -> None:
    """Half a file is never filled up with grey."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    assert "cannot be decoded" in failure(tmp_path, content[: len(content) // 2]).what


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"])
@given(data=st.data())
@settings(SHARED_TMP_PATH, max_examples=40)
def test_damage_anywhere_gives_pixels_or_an_image_error(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    """Overwriting any bytes of any format never lets another exception out."""
    content = bytearray(encoded(Image.fromarray(pattern()), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(tmp_path, bytes(content), max_pixels=1 << 20)
    except ImageError as error:
        assert error.what
    else:
        assert (found.ndim, found.shape[2]) == (3, 3)
        assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"these are words", "the content is not an image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "the content is not an image in a known format"),
    ],
)
def test_what_is_no_image_is_said_to_be_none(tmp_path: Path, content: bytes, what: str) -> None:
    """Empty files, text with an image's name and PostScript each get one short sentence."""
    assert failure(tmp_path, content).what == what


@pytest.mark.parametrize("declared", [(100_000, 100_000), (60_000, 4_474), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, declared: tuple[int, int]) -> None:
    """A few bytes that declare too many pixels are refused undecoded, and without a warning."""
    width, height = declared
    assert width * height > MAX_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = failure(tmp_path, png_header(width, height) + png_chunk(b"IDAT", b""))
    assert error.what.startswith(f"the header declares {width} x {height} pixels")


def test_the_pixel_limit_is_inclusive_and_can_be_chosen(tmp_path: Path) -> None:
    """An image of exactly max_pixels is read, one row more is not."""
    content = encoded(Image.fromarray(pattern(10, 10)), "PNG")
    assert read(tmp_path, content, max_pixels=100).shape == (10, 10, 3)
    assert "more than the limit of 99" in failure(tmp_path, content, max_pixels=99).what


def test_a_large_but_allowed_image_raises_no_warning(tmp_path: Path) -> None:
    """Between Pillow's own warning threshold and ours, the header passes in silence."""
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    width, height = 10_000, limit // 10_000 + 1
    assert width * height < MAX_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = failure(tmp_path, png_header(width, height) + png_chunk(b"IDAT", b"no zlib"))
    assert "cannot be decoded" in error.what


def test_missing_files_folders_pipes_and_odd_names_are_image_errors(tmp_path: Path) -> None:
    """What is not a regular file is refused, and a pipe is not waited for."""
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for uri, what in {
        "gone.png": "the image cannot be read: No such file or directory",
        "folder.png": "not a regular file",
        "pipe.png": "not a regular file",
        "nul\0.png": "cannot be decoded",
        "n" * 5000: "File name too long",
        "": "not a regular file",
    }.items():
        with pytest.raises(ImageError, match=what):
            read_item(Images(), str(tmp_path), uri)


def test_threads_read_what_one_thread_reads(tmp_path: Path) -> None:
    """Eight threads over good and broken images agree with a serial run."""
    good = [
        encoded(Image.fromarray(pattern(20 + n, 30)), k) for n in range(5) for k in ("PNG", "JPEG")
    ]
    broken = [good[0][:50], b"", b"words", png_header(100_000, 100_000)]
    contents = (good + broken) * 4
    for number, content in enumerate(contents[:50]):
        (tmp_path / f"{number}").write_bytes(content)

    def outcome(number: int) -> tuple[str, bytes]:
        try:
            found = read_item(Images(), str(tmp_path), f"{number}")
        except ImageError as error:
            return error.what, b""
        return str(found.shape), found.tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, range(50))) == [outcome(number) for number in range(50)]


def test_a_folder_is_not_called_missing(tmp_path: Path) -> None:
    """A user who names a folder where an image is meant hears that it is one."""
    with pytest.raises(UsageError, match="a folder, not one image"):
        uri_of_file(str(tmp_path), "image")
    for text in (str(tmp_path / "gone.png"), "nul\0.png"):
        with pytest.raises(UsageError, match="no such file"):
            uri_of_file(text, "image")
