"""What an objective may ask of a modality's views, as plain data that says nothing of pixels.

A modality makes a recipe of the requests that it knows; plug-ins may add their own, which their
own modality knows. An objective whose views no modality makes brings them itself (`OwnViews`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

Normalization = Literal["model", "imagenet"]  # of pixels: the encoder's own, or ImageNet's


@dataclass(frozen=True)
class CropFamily:
    """`count` random crops, of a size within `scale`, as a fraction of the sample's."""

    count: int
    scale: tuple[float, float]


@dataclass(frozen=True)
class Changes:
    """What is done to an image's crop beside cutting it, in this order, and how likely it is.

    Attributes:
        flip: left becomes right.
        jitter: brightness, contrast, saturation and hue change, in an order of their own each time.
        brightness: the greatest change of the factor 1.
        contrast: the same.
        saturation: the same.
        hue: the greatest shift, in turns of the colour circle.
        grey: colours vanish.
        blur: by a Gaussian.
        radius: least and greatest standard deviation of it, in pixels.
        solarise: what is brighter than half is inverted.
    """

    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.5
    radius: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.0


@dataclass(frozen=True)
class Crops:
    """Random crops, family by family, each brought to the encoder's input size.

    Attributes:
        families: of crops.
        normalization: the statistics of modalities that have pixels; others have no use for it.
        changes: what else is done to each crop, in the families' order; (): nothing.
    """

    families: tuple[CropFamily, ...]
    normalization: Normalization = "model"
    changes: tuple[Changes, ...] = ()


@dataclass(frozen=True)
class MaskedBlocks:
    """Random crops of one family, each of them whole and with blocks of its patches masked.

    All crops come whole first, then all of them masked, in the same order. Which patches a crop
    lacks is the last of what is drawn: uint8 [crops, rows, columns], 1 where one is masked.

    Attributes:
        crops: the crops.
        ratio: least and greatest share of a crop's patches that are masked; their number is drawn
            uniformly from what lies between.
        aspect: of a block, the least ratio of its sides; the greatest is 1 / aspect.
    """

    crops: Crops
    ratio: tuple[float, float]
    aspect: float

    def counts(self, patches: int) -> tuple[int, int]:
        """Return how many of a crop's patches are masked at least, at least one, and at most."""
        low, high = self.ratio
        least = max(1, ceil(low * patches))
        return least, max(least, floor(high * patches))


@dataclass(frozen=True)
class Windows:
    """All overlapping windows of one size, in order.

    Attributes:
        base_patches: windows that would tile the sample.
        stride_scale: the stride is a window's side divided by it.
        normalization: as of `Crops`.
    """

    base_patches: int
    stride_scale: int
    normalization: Normalization = "model"


@dataclass(frozen=True)
class WordDeletions:
    """`count` copies of a text, each without some of its words.

    Attributes:
        count: of copies.
        rate: how likely a word is left out, or which share of them is.
        rule: "independent": each word by itself (FUNGI, appendix); "share": ceil(rate * words) of
            them, at least one and at most ten, none of which is punctuation (its reference code).
    """

    count: int
    rate: float
    rule: Literal["independent", "share"] = "independent"


@dataclass(frozen=True)
class MaskedWords:
    """`count` copies of a text, in each of which some of its pieces are masked.

    Attributes:
        count: of copies.
        rate: which share of the pieces is masked, at least one of them.
        rule: what stands in a chosen piece's place. "mask": the tokenizer's mask token; "bert":
            that in 80 of 100 cases, a random piece in 10, the piece itself in 10 (Devlin et al.
            2019, section 3.1).
    """

    count: int
    rate: float = 0.15
    rule: Literal["mask", "bert"] = "mask"


@dataclass(frozen=True)
class NoisyRolls:
    """`count` copies of a recording's filter banks, with noise, and rolled along time.

    Attributes:
        count: of copies.
        noise: U(0, 1) a cell, times a U(0, 1) a copy, times this, is added.
        roll: frames by which a copy is rolled: from -roll to roll - 1.
        noise_before: noise is added before the filter banks are standardised (FUNGI's reference
            code), or after it (SSAST's).
    """

    count: int
    noise: float = 0.1
    roll: int = 10
    noise_before: bool = True
