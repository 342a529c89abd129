"""Training images: a random crop, flips, colours, and operations of RandAugment or TrivialAugment.

The operations on pixels are timm's and Pillow's; what is random comes from a stream of the caller.
timm's own transforms draw from the generators of the whole process, so that with several threads no
run would be like another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as PILImage
from PIL import ImageEnhance
from timm.data import auto_augment, str_to_pil_interp
from torch import Tensor

from fungistore.adaptation.options import ImageAugmentation
from fungistore.modalities.image.crops import SizedFamily, crop_boxes
from fungistore.modalities.image.pixels import Image, PixelRecipe
from fungistore.modalities.views import ViewGroup
from fungistore.randomness import Stream

GREATEST = 10.0  # timm's scale of strengths
RAND_OPERATIONS, RAND_STRENGTH, RAND_DEVIATION, RAND_CHANCE = 2, 9.0, 0.5, 0.5
FILL = (128, 128, 128)
COLOURS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def _either(largest: float) -> Callable[[float, float], float]:
    """Return what makes an argument up to `largest` of a strength, of either sign."""
    return lambda strength, sign: sign * largest * strength / GREATEST


def _enhanced(strength: float, sign: float) -> float:
    return max(0.1, 1.0 + sign * 0.9 * strength / GREATEST)


# timm's operations whose effect increases with the strength (RandAugment, "inc1"), their ranges
# as timm has them: of each the argument that a strength, and a sign, become
OPERATIONS: dict[str, Callable[[float, float], float] | None] = {
    "AutoContrast": None,
    "Equalize": None,
    "Invert": None,
    "Rotate": _either(30.0),
    "Posterize": lambda strength, _: max(1, 4 - int(strength / GREATEST * 4)),  # bits
    "Solarize": lambda strength, _: 256 - min(256, int(strength / GREATEST * 256)),
    "SolarizeAdd": lambda strength, _: min(128, int(strength / GREATEST * 110)),
    "Color": _enhanced,
    "Contrast": _enhanced,
    "Brightness": _enhanced,
    "Sharpness": _enhanced,
    "ShearX": _either(0.3),
    "ShearY": _either(0.3),
    "TranslateXRel": _either(0.45),
    "TranslateYRel": _either(0.45),
}
NAMES = tuple(OPERATIONS)


class TrainingView:
    """One random view of an image, as the encoder's input has it.

    Args:
        augmentation: how it varies.
        size: side in pixels.
        interpolation: of the encoder's own transform, such as "bicubic".
    """

    DRAWS: ClassVar[int] = 24  # random numbers of an image, beside its crop's

    def __init__(self, augmentation: ImageAugmentation, size: int, interpolation: str) -> None:
        self._augmentation, self._size = augmentation, size
        self._family = SizedFamily(1, size, (augmentation.min_scale, 1.0))
        self._interpolation: Any = str_to_pil_interp(interpolation)
        self.groups = (ViewGroup(1, size),)

    def on(self, device: torch.device) -> PixelRecipe:
        """Return itself: one view travels as it is."""
        return self

    def draw(self, item: Image, random: Stream) -> tuple[UInt8[np.ndarray, "3 s s"]]:
        """Return the view of one image as uint8 pixels [3, s, s]; all that is random is `random`'s.

        Every image takes the same count of numbers, whatever becomes of it.
        """
        asked = self._augmentation
        height, width = item.shape[:2]
        (box,) = crop_boxes(height, width, self._family, random).tolist()
        numbers = random.uniform(self.DRAWS)
        chances, colours, operations = numbers[:4], numbers[4:8], numbers[8:24]
        cut = PILImage.fromarray(item).crop(tuple(box))
        image = cut.resize((self._size, self._size), self._interpolation)
        if chances[0] < asked.hflip:
            image = image.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
        if chances[1] < asked.vflip:
            image = image.transpose(PILImage.Transpose.FLIP_TOP_BOTTOM)
        if asked.auto_augment == "trivial":
            image = _trivial(image, operations)
        elif asked.auto_augment == "rand":
            image = _rand(image, operations)
        if asked.color_jitter:
            image = _jittered(image, asked.color_jitter, colours)
        pixels = np.asarray(image).transpose(2, 0, 1)
        return (np.ascontiguousarray(pixels),)

    def render(
        self, drawn: tuple[UInt8[Tensor, "b 3 s s"], ...], group: int, views: slice
    ) -> Float[Tensor, "b v 3 s s"]:
        """Return the drawn view as float32 in [0, 1]."""
        return drawn[0][:, None][:, views].float() / 255


def _trivial(image: PILImage.Image, numbers: np.ndarray) -> PILImage.Image:
    """Apply one operation of any strength, or none (TrivialAugment, ICCV 2021, section 3)."""
    chosen = int(numbers[0] * (len(NAMES) + 1))
    if chosen == len(NAMES):  # the identity
        return image
    return _operation(image, NAMES[chosen], GREATEST * numbers[1], numbers[2])


def _rand(image: PILImage.Image, numbers: np.ndarray) -> PILImage.Image:
    """Apply two operations, each half of the time (RandAugment as timm's rand-m9-mstd0.5-inc1)."""
    for place in range(RAND_OPERATIONS):
        name, chance, sign, radius, angle = numbers[5 * place : 5 * place + 5]
        if chance >= RAND_CHANCE:
            continue
        normal = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)  # Box-Muller
        strength = float(np.clip(RAND_STRENGTH + RAND_DEVIATION * normal, 0, GREATEST))
        image = _operation(image, NAMES[int(name * len(NAMES))], strength, sign)
    return image


def _operation(image: PILImage.Image, name: str, strength: float, chance: float) -> PILImage.Image:
    argument = OPERATIONS[name]
    arguments = () if argument is None else (argument(strength, 1.0 if chance < 0.5 else -1.0),)
    done: PILImage.Image = auto_augment.NAME_TO_OP[name](
        image, *arguments, fillcolor=FILL, resample=PILImage.Resampling.BILINEAR
    )
    return done


def _jittered(image: PILImage.Image, jitter: float, numbers: np.ndarray) -> PILImage.Image:
    """Change brightness, contrast and saturation, each by a factor in [1 - jitter, 1 + jitter]."""
    for enhance, number in zip(COLOURS, numbers, strict=False):
        image = enhance(image).enhance(max(0.0, 1 + jitter * (2 * float(number) - 1)))
    return image
