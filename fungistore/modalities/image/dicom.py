"""DICOM: the pixels as a viewer shows them at first, after the file's own window.

Grey values go through the modality's scale and the first window, or the table of values, that the
file has (DICOM PS3.3, C.11.1 and C.11.2); without any, the least value is black and the largest
white. MONOCHROME1 is turned, a palette's numbers are its colours, of several frames the first is
taken, padding is black.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from fungistore.errors import ImageError

INVERTED, PALETTE = "MONOCHROME1", "PALETTE COLOR"
EXACT, SIGMOID = "LINEAR_EXACT", "SIGMOID"  # windows beside the usual linear one


class LazyDicom:
    """A file that is open: its size is known, its pixels are not decoded."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._dataset: Any = dcmread(stream)
        if "PixelData" not in self._dataset:
            raise ImageError("the DICOM file has no pixels")
        self.width, self.height = int(self._dataset.Columns), int(self._dataset.Rows)

    def __enter__(self) -> LazyDicom:
        return self

    def __exit__(self, *args: object) -> None:
        self._dataset = None

    def load(self) -> Image.Image:
        """Return the first frame as 8-bit grey or RGB."""
        dataset = self._dataset
        stored = pixel_array(dataset, index=0)
        if dataset.PhotometricInterpretation == PALETTE:
            colours = apply_color_lut(stored, dataset)[..., :3]
            # Some say 8 bits and have 16.
            is_byte = dataset.RedPaletteColorLookupTableDescriptor[2] == 8 and colours.max() < 256
            most = 255 if is_byte else 65535
            return Image.fromarray(np.rint(colours * (255 / most)).astype(np.uint8))
        if stored.ndim == 3:
            scale = 255 / (2 ** int(dataset.BitsStored) - 1)
            return Image.fromarray(np.rint(stored * scale).astype(np.uint8))
        grey = _shown(dataset, stored)
        if dataset.PhotometricInterpretation == INVERTED:
            grey = 255 - grey
        grey[_padding(dataset, stored)] = 0
        return Image.fromarray(grey)


def open_dicom(stream: IO[bytes]) -> LazyDicom:
    """Open a DICOM file."""
    return LazyDicom(stream)


def _shown(dataset: Any, stored: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    window = _window(dataset)
    if window and dataset.get("VOILUTFunction") == SIGMOID:
        centre, width = window
        with np.errstate(over="ignore"):  # to 0
            return np.rint(255 / (1 + np.exp(-4 * (values - centre) / width))).astype(np.uint8)
    if window:
        centre, width = window
        low, high = centre - width / 2, centre + width / 2
    else:
        if "VOILUTSequence" in dataset:
            values = np.asarray(apply_voi_lut(stored, dataset, prefer_lut=True), np.float64)
        seen = values[~_padding(dataset, stored)]
        low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _padding(dataset: Any, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels are padding: of one value, or of those up to a limit (C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def _window(dataset: Any) -> tuple[float, float] | None:
    """Return the centre and width of the first window, of a linear one as of LINEAR_EXACT.

    By C.11.2.1.2.1 the usual window ends half a value earlier on both sides.
    """
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width <= 0:
        return None
    if dataset.get("VOILUTFunction") in (EXACT, SIGMOID):
        return centre, width
    return None if width < 1 else (centre - 0.5, width - 1)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    is_several = hasattr(value, "__len__") and not isinstance(value, str)
    return float(value[0] if is_several else value)
