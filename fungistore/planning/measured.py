"""What extraction was measured to do, by our own benchmarks, and what that says of other features.

Every row is a line of benchmarks/README.md (a test compares them). Nothing is carried over to other
hardware, another model or another size of image: who plans with those gives a rate, or says how
many times as fast they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SOURCE = "benchmarks/README.md"


@dataclass(frozen=True)
class Measured:
    """One measured rate.

    Attributes:
        hardware: what `--gpu` calls it.
        model: timm's architecture.
        image_size: side of its input in pixels.
        settings: how it ran.
        features: what was extracted together.
        images_per_second: of one worker, from images in memory.
    """

    hardware: str
    model: str
    image_size: int
    settings: str
    features: tuple[str, ...]
    images_per_second: float


@dataclass(frozen=True)
class Bounds:
    """A rate that lies between two others, and where these come from."""

    low: float
    high: float
    source: str


H200 = ("h200", "vit_base_patch16_224", 224, "bfloat16, compiled, batches of 256")
XEON = ("xeon-2-cores", "vit_small_patch14_dinov2", 224, "float32, batches of 16")
RATES = (
    Measured(*H200, ("embeddings",), 11557),
    Measured(*H200, ("kl",), 9999),
    Measured(*H200, ("dino",), 864),
    Measured(*XEON, ("embeddings",), 21.6),
    Measured(*XEON, ("embeddings", "kl"), 21.2),
    Measured(*XEON, ("embeddings", "patches"), 19.7),
    Measured(*XEON, ("dino",), 1.78),
    Measured(*XEON, ("simclr",), 0.44),
)
# JPEG files of 375 x 500 drawn at 224 by two processes on two cores (benchmarks/decode.py)
DECODED_PER_CORE = 471 / 2
# `make bench-million`: a million rows of 768, of them 10,000 to test, two cores (docs/scale.md)
MILLION_ROWS, MILLION_DIM, MILLION_TESTS = 1_000_000, 768, 10_000
PCA_MINUTES, KNN_MINUTES = 1.0, 4.0


def hardware() -> list[str]:
    """Return the names of what was measured."""
    return list(dict.fromkeys(one.hardware for one in RATES))


def rate_of(
    name: str, model: str, image_size: int, features: Sequence[str], rates: Sequence[Measured]
) -> Bounds | None:
    """Return a rate for features that were measured on some hardware; None where they were not.

    Features measured together have that rate. Of others a part was measured at a time, each with a
    forward of its own: together they take no longer than one after the other, and no less than the
    slowest. Embeddings come of every forward, so they need no part of their own.
    """
    known = [
        one
        for one in rates
        if (one.hardware, one.model, one.image_size) == (name.lower(), model, image_size)
    ]
    wanted = set(features)
    for one in known:
        if set(one.features) == wanted:
            return Bounds(one.images_per_second, one.images_per_second, _said([one]))
    parts = [one for one in known if set(one.features) <= wanted]
    parts = [one for one in parts if set(one.features) != {"embeddings"}] or parts
    left, chosen = wanted - {"embeddings"}, []
    for one in sorted(parts, key=lambda one: -len(one.features)):
        if set(one.features) & left:
            chosen.append(one)
            left -= set(one.features)
    if left or not chosen:
        return None
    low = 1 / sum(1 / one.images_per_second for one in chosen)
    return Bounds(low, min(one.images_per_second for one in chosen), _said(chosen))


def _said(parts: Sequence[Measured]) -> str:
    first = parts[0]
    each = "; ".join(f"{', '.join(p.features)} {p.images_per_second:g}/s" for p in parts)
    what = f"{first.model} at {first.image_size} px, {first.settings}"
    return f"{SOURCE}: {first.hardware}, {what}, images in memory: {each}"
