"""What a timm model is made of, read off one forward of its sketch: no weights, no numbers.

timm's families share attributes by name and mean different things by them: a hybrid's patches are
cells of a convolution's map, some models have no classifier's place, maps have their channels first
or last. A forward on the meta device costs milliseconds, and tells before anything is downloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from fungistore.backbones.target_layers import DIFFERENTIABLE
from fungistore.backbones.timm_vit.layout import Layout, layout_of
from fungistore.errors import UsageError

NEEDED = ("blocks", "embed_dim", "forward_features", "forward_head", "num_features")


@dataclass(frozen=True)
class Anatomy:
    """What a model makes of one image.

    Attributes:
        height, width: of the image in pixels.
        patch_size: pixels a side of what becomes one token, or one cell of a map.
        rows, columns: of the tokens or cells.
        prefix_tokens: class, distillation and register tokens in front of the others.
        layout: how `forward_features` holds them; None: they have no places.
        embedding_dim: width of the embedding.
        token_dim: width of a token, or channels of a cell.
        layers: names of linear and convolution layers that run exactly once, in their order.
        calls: how often each layer runs that runs at all.
        keeps_patches: whether a patch embedding makes the tokens that have places, one of each.
    """

    height: int
    width: int
    patch_size: int
    rows: int
    columns: int
    prefix_tokens: int
    layout: Layout | None
    embedding_dim: int
    token_dim: int
    layers: tuple[str, ...]
    calls: Counter[str]
    keeps_patches: bool


def is_plain(model: Any) -> bool:
    """Whether a model has the parts of a vision transformer: embeddings, blocks, a norm in line."""
    patch_embed = getattr(model, "patch_embed", None)
    return all(hasattr(model, n) for n in NEEDED) and hasattr(patch_embed, "patch_size")


def examine(sketch: Any, name: str, image_size: int | None) -> Anatomy:
    """Return what a model makes of an image.

    Args:
        sketch: the model on the meta device.
        name: of the model, for errors.
        image_size: side of the image; None: the model's own size.

    Raises:
        UsageError: the model makes no vector of an image, or none of an image of that size.
    """
    own = sketch.pretrained_cfg["input_size"][-2:]
    height, width = (image_size, image_size) if image_size is not None else own
    if not hasattr(sketch, "forward_features") or not hasattr(sketch, "forward_head"):
        raise _unusable(name, f"{type(sketch).__name__}, which does not tell features from a head")
    try:
        with (
            torch.no_grad(),
            torch.device("meta"),
            _calls(sketch.eval()) as order,
            _embedded(sketch) as embedded,
        ):
            tokens = sketch.forward_features(torch.zeros(1, 3, height, width))
            embedding = sketch.forward_head(tokens)
    except Exception as error:  # timm's models raise whatever they meet
        found = f"{type(sketch).__name__}: {str(error).partition(chr(10))[0]}"
        if image_size is not None and image_size not in own:
            raise _wrong_size(name, image_size, own[0], found) from error
        raise _unusable(name, found) from error
    if not isinstance(embedding, Tensor) or embedding.ndim != 2:
        shape = list(getattr(embedding, "shape", ()))[1:]
        raise _unusable(name, f"an output of shape {shape}, not a vector")
    calls = Counter(order)
    layers = tuple(layer for layer in order if calls[layer] == 1)
    read = _plain_tokens if is_plain(sketch) else _tokens
    patch, rows, columns, prefix, layout = read(sketch, tokens, height, width)
    token_dim = _token_dim(sketch, tokens, embedding)
    keeps_patches = layout == "tokens" and embedded == [(rows * columns, token_dim)]
    return Anatomy(
        height, width, patch, rows, columns, prefix, layout, embedding.shape[-1], token_dim,
        layers, calls, keeps_patches,
    )  # fmt: skip


_Tokens = tuple[int, int, int, int, Layout | None]  # patch, rows, columns, prefix, layout


def _plain_tokens(sketch: Any, tokens: Tensor, height: int, width: int) -> _Tokens:
    """Return what a vision transformer's tokens are; maps that a neck makes are none."""
    prefix = getattr(sketch, "num_prefix_tokens", 1)
    named = sketch.patch_embed.patch_size
    patch = named if isinstance(named, int) else named[0]
    layout: Layout | None = None
    if tokens.ndim == 3:
        count = tokens.shape[1] - prefix
        side = isqrt(height * width // count) if count > 0 else 0
        if side > 0 and (height // side) * (width // side) == count:
            patch, layout = side, "tokens"
    return patch, height // patch, width // patch, prefix, layout


def _tokens(sketch: Any, features: Any, height: int, width: int) -> _Tokens:
    """Return what any other model's features are: a map, or tokens row by row."""
    steps = getattr(sketch, "feature_info", None) or [{}]
    stride = steps[-1].get("reduction") if isinstance(steps[-1], dict) else None
    layout, rows, columns, prefix = layout_of(sketch, features)
    if layout is None:
        stride = int(stride or height)
        return stride, max(1, height // stride), max(1, width // stride), 0, None
    if stride is None or -(-height // stride) != rows:
        stride = max(1, height // rows)
    return int(stride), rows, columns, prefix, layout


def _token_dim(sketch: Any, features: Any, embedding: Tensor) -> int:
    if is_plain(sketch):
        return int(sketch.embed_dim)
    layout, *_ = layout_of(sketch, features)
    if layout is None:
        return int(embedding.shape[-1])
    return int(features.shape[1 if layout == "channels first" else -1])


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[str]]:
    """Give the names of the layers that could be differentiated, each time one runs."""
    order: list[str] = []

    def note(name: str, *_: object) -> None:
        order.append(name)

    hooks = [
        layer.register_forward_hook(partial(note, name))
        for name, layer in model.named_modules()
        if isinstance(layer, DIFFERENTIABLE)
    ]
    try:
        yield order
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _embedded(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Give how many tokens a vision transformer's patch embedding makes, and their width."""
    found: list[tuple[int, int]] = []

    def note(module: nn.Module, entered: object, tokens: Any) -> None:
        if isinstance(tokens, Tensor):  # with their grid's sides, tokens are none
            found.append((tokens.shape[1:-1].numel(), tokens.shape[-1]))

    hooks = [model.patch_embed.register_forward_hook(note)] if is_plain(model) else []
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _unusable(name: str, found: str) -> UsageError:
    return UsageError(
        "the model gives no embedding of an image",
        where=f"--model {name}",
        expected="features that a head pools into one vector",
        found=found,
        hint="fungi models lists names",
    )


def _wrong_size(name: str, image_size: int, own: int, found: str) -> UsageError:
    return UsageError(
        "the model cannot take images of this size",
        where=f"--model {name} --image-size {image_size}",
        expected=f"{own}, its own, or another size that its layers can divide",
        found=found,
        hint="leave out --image-size, or give a multiple of 32",
    )
