"""Images that are damaged, cut off, of other formats, or of odd proportions."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

import fungistore as fungi
from fungistore.errors import ImageError
from fungistore.modalities.image import extra_formats
from fungistore.modalities.image.images import Images
from fungistore.modalities.image.rescue import without_metadata

READ = Images().read
PICTURE = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (83, 61), Image.Resampling.BICUBIC
    )
)


def encoded(kind: str, pixels: Any = PICTURE, **options: Any) -> bytes:
    """Encode an image."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def read(content: bytes) -> NDArray[np.uint8]:
    """Decode an image as the extraction does."""
    return READ(io.BytesIO(content))


def rescued(content: bytes) -> NDArray[np.uint8]:
    """Decode what there is of an image."""
    return Images().rescue(io.BytesIO(content))


def exif(orientation: int) -> bytes:
    """Return EXIF with an orientation and a comment."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    tags[ExifTags.Base.ImageDescription] = "some words " * 20
    return tags.tobytes()


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_jpeg_without_its_end_mark_is_whole(options: dict[str, int]) -> None:
    """Every pixel is there; one that lacks any bit of them is none, nor is a progressive one."""
    content = encoded("JPEG", quality=90, **options)
    assert content.endswith(b"\xff\xd9")
    assert np.array_equal(read(content[:-2]), read(content))
    for missing in (4, 9, len(content) // 2):
        with pytest.raises(OSError, match="truncated"):
            read(content[:-missing])
    progressive = encoded("JPEG", quality=90, progressive=True)
    with pytest.raises(OSError, match="truncated"):
        read(progressive[:-2])
    assert np.array_equal(rescued(progressive[:-2]), read(progressive))


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_no_cut_of_a_jpeg_gives_other_pixels(rows: int) -> None:
    """Wherever it is cut, before a restart mark too: it is refused, or all pixels are right."""
    content = encoded("JPEG", PICTURE[:20, :24], quality=80, restart_marker_rows=rows)
    whole = read(content)
    for stop in range(content.index(b"\xff\xda") + 12, len(content)):
        try:
            found = read(content[:stop])
        except OSError:
            continue
        assert np.array_equal(found, whole), stop


def a_scan_a_component(pixels: Any) -> tuple[bytes, list[int]]:
    """Encode a JPEG, not progressive, whose components come one after the other; where each ends.

    It is put together from one grey JPEG a component: the codes are the same.
    """
    parts: list[bytes] = []
    ends = []
    for number, plane in enumerate(Image.fromarray(pixels).convert("YCbCr").split(), 1):
        grey = encoded("JPEG", np.asarray(plane), quality=90)
        frame, tables, scan = (grey.index(mark) for mark in (b"\xff\xc0", b"\xff\xc4", b"\xff\xda"))
        components = b"".join(bytes((one, 0x11, 0)) for one in (1, 2, 3))
        header = grey[frame : frame + 2] + b"\0\x11" + grey[frame + 4 : frame + 9] + b"\3"
        parts += [grey[:frame] + header + components] if number == 1 else []
        start = b"\xff\xda\0\x08\1" + bytes((number, 0, 0, 63, 0))
        parts += [grey[tables:scan], start, grey[scan + 10 : -2]]
        ends.append(sum(map(len, parts)))
    return b"".join(parts), ends


def test_a_jpeg_that_lacks_a_scan_is_not_whole() -> None:
    """One without its colours is refused: that they are missing shows nowhere in what is there."""
    content, ends = a_scan_a_component(PICTURE)
    assert np.ptp(read(content + b"\xff\xd9"), axis=-1).max() > 9  # it has colours
    for end in ends:
        with pytest.raises(OSError, match="truncated"):
            read(content[:end])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_an_image_that_ends_too_early_is_read_as_far_as_it_goes(kind: str) -> None:
    """The upper lines are those of the whole image, the lower ones of one colour."""
    picture = np.repeat(np.repeat(PICTURE, 4, 0), 4, 1)
    content = encoded(kind, picture)
    half = content[: len(content) * 6 // 10]
    if kind == "BMP":  # from the bottom up
        picture, found = picture[::-1], rescued(half)[::-1]
    else:
        found = rescued(half)
    whole = read(content)[::-1] if kind == "BMP" else read(content)
    assert found.shape == whole.shape
    assert np.array_equal(found[:48], whole[:48])
    assert not np.array_equal(found[-16:], whole[-16:])


def test_nothing_comes_of_nothing() -> None:
    """Of foreign content, or of a header alone."""
    for content in (b"not an image", encoded("PNG")[:20], b""):
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the decoder says
            rescued(content)


@pytest.mark.parametrize("orientation", [1, 6])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_damaged_metadata_of_a_jpeg_spoil_no_pixel(orientation: int, data: st.DataObject) -> None:
    """Whatever is in EXIF or a profile, the pixels are there; turned only where that is known."""
    profile = b"\0\0\1\0" + bytes(200)
    content = bytearray(
        encoded("JPEG", exif=exif(orientation), icc_profile=profile, comment=b"words", dpi=(3, 4))
    )
    start, stop = content.index(b"Exif"), content.index(b"\xff\xdb")
    for at in data.draw(st.lists(st.integers(start, stop - 1), max_size=40)):
        is_marker = content[at - 1] == 0xFF or content[at] == 0xFF
        in_length = any(content[at - back - 2 : at - back][:1] == b"\xff" for back in (0, 1, 2, 3))
        if not is_marker and not in_length:
            content[at] = data.draw(st.integers(0, 254))
    plain = read(encoded("JPEG"))
    found = read(bytes(content))
    turned = {tuple(np.rot90(plain, k).shape): np.rot90(plain, k) for k in range(4)}
    assert any(np.array_equal(found, np.rot90(plain, k)) for k in range(4)) or any(
        np.array_equal(found, np.rot90(plain[:, ::-1], k)) for k in range(4)
    ), turned.keys()


def chunk(name: bytes, content: bytes, *, crc: int | None = None) -> bytes:
    """Return a chunk of a PNG."""
    right = zlib.crc32(name + content)
    tail = struct.pack(">I", right if crc is None else crc)
    return struct.pack(">I", len(content)) + name + content + tail


BOMB = b"key\0\0" + zlib.compress(bytes(80_000_000))
ODD_CHUNKS = {
    "wrong checksum": chunk(b"tEXt", b"key\0words", crc=1),
    "a bomb of text": chunk(b"zTXt", BOMB),
    "a bomb of a profile": chunk(b"iCCP", BOMB),
    "text that is none": chunk(b"iTXt", b"key\0\1\0\0\0" + b"no zlib"),
    "a resolution cut off": chunk(b"pHYs", b"\0\0"),
    "gamma cut off": chunk(b"gAMA", b"\0"),
    "EXIF that is none": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
}


@pytest.mark.parametrize("odd", ODD_CHUNKS)
def test_damaged_metadata_of_a_png_spoil_no_pixel(odd: str) -> None:
    """Before the pixels or behind them."""
    content = encoded("PNG")
    first, last = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    for at in (first, last):
        assert np.array_equal(read(content[:at] + ODD_CHUNKS[odd] + content[at:]), PICTURE)


def test_damaged_metadata_of_a_webp_spoil_no_pixel() -> None:
    """EXIF, XMP and profile."""
    content = encoded("WEBP", lossless=True, exif=exif(1), icc_profile=bytes(128), xmp=b"<x/>")
    for name in (b"EXIF", b"XMP ", b"ICCP"):
        at = content.index(name) + 8
        damaged = content[:at] + b"\xff" * 6 + content[at + 6 :]
        assert np.array_equal(read(damaged), PICTURE), name
    bare = next(iter(without_metadata(content)))
    assert np.array_equal(read(bare), PICTURE)
    assert b"EXIF" not in bare


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_upright(orientation: int) -> None:
    """As pillow-heif decodes it, turned as its orientation says."""
    stream = io.BytesIO()
    heif = pillow_heif.from_pillow(Image.fromarray(PICTURE))
    heif.save(stream, quality=95, exif=exif(orientation))
    found = read(stream.getvalue())
    wanted = np.rot90(PICTURE, -1) if orientation == 6 else PICTURE
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < 6


def test_heic_and_avif_of_a_general_brand_are_told_apart() -> None:
    """Files that are called `mif1` at first have their codec further on in the list of brands."""
    heic = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PICTURE)).save(heic)
    for content in (heic.getvalue(), encoded("AVIF", quality=90)):
        general = content[:8] + b"mif1" + content[12:]
        assert np.array_equal(read(general), read(content)), content[8:12]


def test_jpeg_xl_is_read() -> None:
    """Without loss where it was made so."""
    import pillow_jxl  # noqa: F401 - registers the encoder

    assert np.array_equal(read(encoded("JXL", lossless=True)), PICTURE)


def dicom(pixels: NDArray[Any], **fields: Any) -> bytes:
    """Write a grey DICOM file."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_dicom_is_shown_through_its_window() -> None:
    """Window and scale as the standard has them; without, from the least to the largest value."""
    stored = np.arange(-500, 500, dtype=np.int16).reshape(25, 40)
    plain = read(dicom(stored))
    assert (plain[0, 0, 0], plain[-1, -1, 0]) == (0, 255)
    window = {"WindowCenter": 100, "WindowWidth": 200, "RescaleSlope": 2, "RescaleIntercept": 10}
    found = read(dicom(stored, **window))[..., 0]
    values = stored * 2.0 + 10
    wanted = np.clip(((values - 99.5) / 199 + 0.5) * 255, 0, 255)  # C.11.2.1.2.1
    assert np.abs(found - wanted).max() <= 0.51
    turned = read(dicom(stored, PhotometricInterpretation="MONOCHROME1", **window))[..., 0]
    assert np.array_equal(turned, 255 - found)
    frames = read(dicom(np.stack([stored, stored[::-1]])))
    assert np.array_equal(frames, plain)
    padded = read(dicom(stored, PixelPaddingValue=-500))[..., 0]
    assert (padded[0, 0], padded[0, 1]) == (0, 0)
    ranged = read(dicom(stored, PixelPaddingValue=-500, PixelPaddingRangeLimit=-1))[..., 0]
    assert (ranged[12, 19], ranged[13, 0], ranged[-1, -1]) == (0, round(20 / 499 * 255), 255)


def test_dicom_has_other_windows_and_palettes() -> None:
    """A sigmoid and an exact window (C.11.2.1.3), and colours by their numbers (C.7.6.3.1.5)."""
    stored = np.arange(-500, 500, dtype=np.int16).reshape(25, 40)
    window = {"WindowCenter": 100, "WindowWidth": 200}
    found = read(dicom(stored, VOILUTFunction="SIGMOID", **window))[..., 0]
    wanted = 255 / (1 + np.exp(-4 * (stored - 100.0) / 200))
    assert np.abs(found - wanted).max() <= 0.51
    found = read(dicom(stored, VOILUTFunction="LINEAR_EXACT", **window))[..., 0]
    assert np.abs(found - np.clip((stored / 200) * 255, 0, 255)).max() <= 0.51
    numbers = np.array([[0, 1], [2, 3]], np.uint8)
    for bits in (8, 16):
        most = 2**bits - 1
        colours = {
            f"{name}PaletteColorLookupTable{what}": value
            for plane, name in enumerate(("Red", "Green", "Blue"))
            for what, value in {
                "Descriptor": [4, 0, bits],
                "Data": np.array(
                    [most * (plane == one) for one in (0, 1, 2, 9)], f"<u{bits // 8}"
                ).tobytes(),
            }.items()
        }
        found = read(dicom(numbers, PhotometricInterpretation="PALETTE COLOR", **colours))
        assert found.tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]]


def test_a_camera_s_raw_in_tiff_is_refused() -> None:
    """What it begins with is a small copy."""
    tags = {254: 1, 330: 8}
    with pytest.raises(ImageError, match="RAW"):
        read(encoded("TIFF", tiffinfo=tags))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"II\x2a\0\x10\0\0\0CR\x02\0" + bytes(200), "RAW"),
        (b"\0\0\0\x20ftypisom" + bytes(200), "video"),
        (b"%PDF-1.7" + bytes(200), "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns=""/>', "SVG"),
        (b"<!DOCTYPE html><html>login</html>", "HTML"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, words: str) -> None:
    """By its first bytes, with what to do."""
    with pytest.raises(ImageError, match=words):
        read(content)


def test_a_format_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And its suffix is none of an image then."""
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PICTURE)).save(stream)
    assert "heic" in Images.suffixes
    monkeypatch.setattr(extra_formats, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"pip install .*pillow-heif"):
        read(stream.getvalue())
    assert "heic" not in extra_formats.extra_suffixes()
    assert extra_formats.absent_format("heic") is not None


def model_of(side: int) -> str:
    """Return a model whose transform is a function, so that nothing of ours crops before it."""
    net = torch.nn.Conv2d(3, 4, 8, 8)

    def transform(image: Any) -> torch.Tensor:
        small = np.array(image.resize((side, side)), np.float32)
        return torch.from_numpy(small).permute(2, 0, 1) / 255

    return fungi.Encoder(net, transform, name=f"plain-{side}").model


def test_truncated_images_are_rows_and_are_listed(tmp_path: Path) -> None:
    """One cut copy has the row of the whole one; both are counted, and mended when asked."""
    images = tmp_path / "images"
    images.mkdir()
    content = encoded("JPEG", quality=95)
    progressive = encoded("JPEG", quality=95, progressive=True)
    (images / "whole.jpg").write_bytes(progressive)
    (images / "cut.jpg").write_bytes(progressive[:-2])
    (images / "half.jpg").write_bytes(content[: len(content) // 2])
    (images / "none.jpg").write_bytes(b"nothing")
    options = fungi.ExtractOptions(
        model=model_of(16), features=("embeddings",), on_error="truncated", dtype="float32"
    )
    done = fungi.extract(images, tmp_path / "s.fungi", options)
    assert (done.samples, done.failed, done.truncated) == (4, 1, 2)
    assert json.loads(json.dumps(done.to_json()))["truncated"] == 2
    store = fungi.Store.open(tmp_path / "s.fungi")
    rows = {row["id"]: row["row"] for row in store.samples.rows(0, 4)}
    values = store.arrays(done.feature_set)["embeddings"].read(0, 4)
    assert np.array_equal(values[rows["cut.jpg"]], values[rows["whole.jpg"]])
    assert np.isfinite(values[rows["half.jpg"]]).all()
    assert np.isnan(values[rows["none.jpg"]]).all()
    assert not fungi.verify_store(tmp_path / "s.fungi").findings
    (images / "half.jpg").write_bytes(progressive)
    mended = fungi.extract(images, tmp_path / "s.fungi", options, update=True)
    assert (mended.failed, mended.truncated) == (1, 1)
    values = fungi.Store.open(tmp_path / "s.fungi").arrays(done.feature_set)["embeddings"]
    half, whole = values.read(0, 4)[[rows["half.jpg"], rows["whole.jpg"]]]
    assert np.array_equal(half, whole)


def test_a_line_of_pixels_is_no_reason_for_memory(tmp_path: Path) -> None:
    """A transform of somebody's own is not given it: the input fails, and says why."""
    (tmp_path / "images").mkdir()
    Image.new("L", (1, 5000)).save(tmp_path / "images/thin.gif")
    options = fungi.ExtractOptions(model=model_of(24), features=("embeddings",))
    done = fungi.extract(tmp_path / "images", tmp_path / "s.fungi", options)
    assert done.failed == 1
    assert "too long" in done.failures[0].message
