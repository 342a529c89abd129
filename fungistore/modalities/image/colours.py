"""Changes of colour and sharpness of many crops at once, each by an amount of its own.

The arithmetic is that of `torchvision.transforms.v2.functional` on float images, crop by crop;
here it runs on a batch. Products and sums are steps of their own: a fused one would round
otherwise at the end of a batch than within it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

GREY = (0.2989, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601's luma, as torchvision has it
BRIGHT = 128 / 255  # and above it: what Pillow's solarize inverts, of bytes
REACH = 4  # deviations to each side: a Gaussian's tail beyond is 6e-5
LARGEST_RADIUS = 2.0  # pixels
TAPS = int(REACH * LARGEST_RADIUS)  # to each side of a pixel

Pixels = Float[Tensor, "n 3 h w"]
Amounts = Float[Tensor, " n"]


def brightened(pixels: Pixels, factors: Amounts) -> Pixels:
    """Multiply."""
    return (pixels * _each(factors)).clamp(0, 1)


def contrasted(pixels: Pixels, factors: Amounts) -> Pixels:
    """Move pixels away from the mean of the crop's grey values, or towards it."""
    mean = grey(pixels).mean(dim=-1).mean(dim=-1)  # row by row: whatever the number of crops
    return _blended(pixels, mean[..., None, None], factors)


def saturated(pixels: Pixels, factors: Amounts) -> Pixels:
    """Move pixels away from their own grey value, or towards it."""
    return _blended(pixels, grey(pixels), factors)


def recoloured(pixels: Pixels, turns: Amounts) -> Pixels:
    """Turn hues on the colour circle: HSV's, saturation and value stay."""
    hue, saturation, value = _hsv(pixels)
    sixths = ((hue + turns[:, None, None]) % 1) * 6
    channels = []
    for start in (5, 3, 1):  # of red, green and blue: where on the circle each begins to fall
        place = (sixths + start) % 6
        share = torch.minimum(place, 4 - place).clamp(0, 1)
        channels.append(value - value * saturation * share)
    return torch.stack(channels, dim=1)


def grey(pixels: Pixels) -> Float[Tensor, "n 1 h w"]:
    """Return the luma."""
    red, green, blue = (pixels[:, n : n + 1] * weight for n, weight in enumerate(GREY))
    return red + green + blue


def blurred(pixels: Pixels, radii: Amounts) -> Pixels:
    """Convolve with a Gaussian of a deviation in pixels, mirrored at the edges; radii on the host.

    Equals torchvision's `gaussian_blur` with 17 taps. Pillow's, which DINO's code calls, is made of
    boxes and repeats the edge: off the edges the two are within a grey level on average.
    """
    for axis in (-1, -2):
        reach = min(TAPS, pixels.shape[axis] - 1)
        taps = torch.arange(reach + 1, dtype=torch.float64)
        weights = (-0.5 * (taps / radii[:, None]) ** 2).exp()
        weights = weights / (2 * weights.sum(dim=1, keepdim=True) - 1)
        weights = weights.float().to(pixels.device, non_blocking=True)
        sides = (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach)
        padded, length = nn.functional.pad(pixels, sides, mode="reflect"), pixels.shape[axis]
        pixels = pixels * _each(weights[:, 0])
        for tap in range(1, reach + 1):
            before = padded.narrow(axis, reach - tap, length)
            after = padded.narrow(axis, reach + tap, length)
            pixels = pixels + (before + after) * _each(weights[:, tap])
    return pixels


def solarised(pixels: Pixels) -> Pixels:
    """Invert what is bright."""
    return torch.where(pixels >= BRIGHT, 1 - pixels, pixels)


def _hsv(pixels: Pixels) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue (in turns), saturation and value [n h w] of RGB; of greys the hue is 0."""
    red, green, blue = pixels.unbind(1)
    value, least = pixels.amax(1), pixels.amin(1)
    spread = value - least
    is_grey = spread == 0
    saturation = spread / torch.where(is_grey, 1, value)
    by = torch.where(is_grey, 1, spread)
    of_red, of_green = (green - blue) / by, (blue - red) / by + 2
    of_blue = (red - green) / by + 4
    sixths = torch.where(value == red, of_red, torch.where(value == green, of_green, of_blue))
    return (sixths / 6) % 1, saturation, value


def _blended(pixels: Pixels, other: Float[Tensor, "n 1 _ _"], factors: Amounts) -> Pixels:
    share = _each(factors)
    return (pixels * share + other * (1 - share)).clamp(0, 1)


def _each(amounts: Amounts) -> Float[Tensor, "n 1 1 1"]:
    return amounts[:, None, None, None]
