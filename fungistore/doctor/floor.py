"""What this machine can do at most: the bare forward of a model, as `make bench` measures it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import timm
import torch
from timm.data import resolve_data_config
from timm.layers import to_2tuple
from torch import nn

from fungistore.backbones.families import TIMM, split_model
from fungistore.backbones.timm_vit.anatomy import is_plain
from fungistore.doctor.check import Check, passed
from fungistore.errors import UsageError
from fungistore.machine.device import default_batch_size, fast_dtype, resolve_device

SECONDS = 2.0  # of measuring
FORWARDS = 3  # at least
LONGEST_FORWARD = 1.0  # seconds; the batch is halved until one takes no longer


@dataclass(frozen=True)
class Floor:
    """The rate of a bare forward with random weights, decoded images being in memory.

    Attributes:
        model: timm's name.
        device: it ran on.
        dtype: that extraction would choose there.
        image_size: side of the input in pixels.
        batch_size: images in one forward: extraction's own, or fewer where that is slow.
        images_per_second: median over the forwards.
        forwards: that were measured.
    """

    model: str
    device: str
    dtype: str
    image_size: int
    batch_size: int
    images_per_second: float
    forwards: int

    def to_check(self) -> Check:
        """Return the floor as a line of the examination; it is a number, so it always passes."""
        found = (
            f"{self.images_per_second:.1f} images/s: bare forward, random weights, {self.dtype} "
            f"on {self.device}, {self.image_size} px, batches of {self.batch_size}, "
            f"median of {self.forwards}"
        )
        return passed(f"floor of {self.model}", found)


def measure_floor(
    model: str, *, image_size: int | None = None, device: str = "auto", seconds: float = SECONDS
) -> Floor:
    """Measure the bare forward of a model for a few seconds; nothing is downloaded.

    Args:
        model: timm name.
        image_size: side of the input in pixels; default: the model's own.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        seconds: how long to measure; three forwards are measured at least.

    Raises:
        UsageError: no such model, size or device.
    """
    place = resolve_device(device)
    name = fast_dtype(place)
    dtype: torch.dtype = getattr(torch, name)
    family, architecture = split_model(model)
    if family != TIMM:
        raise _unusable(model, "a model that is not timm's")
    network = _build(architecture, image_size, place).to(dtype)
    config = resolve_data_config({"img_size": image_size} if image_size else {}, model=network)
    side: int = config["input_size"][-1]
    patch = _patch_size(network)
    if side % patch:
        raise _unusable(model, f"images of {side} pixels, patches of {patch}")
    batch = default_batch_size(place, (side // patch) ** 2)
    batch = _affordable(network, batch, side, place, dtype)
    pixels = torch.randn(batch, 3, side, side, device=place).to(dtype)
    _forward(network, pixels)
    times: list[float] = []
    while len(times) < FORWARDS or sum(times) < seconds:
        times.append(_forward(network, pixels))
    rate = batch / statistics.median(times)
    return Floor(model, str(place), name, side, batch, rate, len(times))


def _build(model: str, image_size: int | None, device: torch.device) -> nn.Module:
    size = {} if image_size is None else {"img_size": image_size}
    try:
        with device:
            network: nn.Module = timm.create_model(
                model.partition(".")[0], pretrained=False, num_classes=0, **size
            )
    except Exception as error:  # timm's own, and assertions about sizes
        raise _unusable(model, f"{type(error).__name__}: {error}") from error
    if not is_plain(network):
        raise _unusable(model, f"{type(network).__name__}, not a plain vision transformer")
    return network.eval().requires_grad_(False)


def _unusable(model: str, found: str) -> UsageError:
    return UsageError(
        "the model cannot be measured",
        where=f"--model {model}",
        found=found,
        hint="fungi models lists names; --image-size must be a multiple of the patch size",
    )


def _patch_size(network: nn.Module) -> int:
    embedding = getattr(network, "patch_embed", None)
    height, _ = to_2tuple(getattr(embedding, "patch_size", 1))
    return int(height)


def _affordable(
    network: nn.Module, most: int, side: int, device: torch.device, dtype: torch.dtype
) -> int:
    """Return the largest power of two of images, up to `most`, whose forward is short."""
    pixels = torch.randn(1, 3, side, side, device=device).to(dtype)
    _forward(network, pixels)
    one = _forward(network, pixels)
    batch = most
    while device.type == "cpu" and batch > 1 and batch * one > LONGEST_FORWARD:
        batch //= 2
    return batch


@torch.inference_mode()
def _forward(network: nn.Module, pixels: torch.Tensor) -> float:
    """Return the seconds of one forward, to the end of its work on the device."""
    began = time.perf_counter()
    network(pixels)
    if pixels.device.type == "cuda":
        torch.cuda.synchronize(pixels.device)
    elif pixels.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - began
