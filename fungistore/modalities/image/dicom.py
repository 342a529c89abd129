"""DICOM: the pixels as a viewer shows them at first, after the file's own window.

Grey values go through the modality's scale and the first window, or the table of values, that the
file has (DICOM PS3.3, C.11.1 and C.11.2); without any, the least value is black and the largest
white. MONOCHROME1 is turned, of several frames the first is taken, padding is black.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from fungistore.errors import ImageError

INVERTED = "MONOCHROME1"


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
        if stored.ndim == 3:
            scale = 255 / (2 ** int(dataset.BitsStored) - 1)
            return Image.fromarray(np.rint(stored * scale).astype(np.uint8))
        grey = _shown(dataset, stored)
        if dataset.PhotometricInterpretation == INVERTED:
            grey = 255 - grey
        padding = dataset.get("PixelPaddingValue")
        if padding is not None:
            grey[stored == padding] = 0
        return Image.fromarray(grey)


def open_dicom(stream: IO[bytes]) -> LazyDicom:
    """Open a DICOM file."""
    return LazyDicom(stream)


def _shown(dataset: Any, stored: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    low, high = _window(dataset)
    if low is None or high is None:
        if "VOILUTSequence" in dataset:
            values = np.asarray(apply_voi_lut(stored, dataset, prefer_lut=True), np.float64)
        padding = dataset.get("PixelPaddingValue")
        seen = values if padding is None else values[stored != padding]
        low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _window(dataset: Any) -> tuple[float | None, float | None]:
    """Return the values that are black and white in the first window (C.11.2.1.2.1)."""
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width < 1:
        return None, None
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    is_several = hasattr(value, "__len__") and not isinstance(value, str)
    return float(value[0] if is_several else value)
