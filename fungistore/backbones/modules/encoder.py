"""A torch module as an encoder: what it returns is read off one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fungistore.backbones.encoder import ClassTokenSplit, Encoded, TokenGrid
from fungistore.backbones.modules.transform import (
    TransformedView,
    spelled,
    statistics_of,
    transformed,
)
from fungistore.backbones.target_layers import differentiable, refuse_other_layer
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.modalities.image.pixels import Statistics
from fungistore.modalities.views import Inputs, ViewRecipe

LAST_PROJECTIONS = ("attn.proj", "attn.out_proj", "attention.output.dense")  # the paper's layer
PROBE = (64, 64, 3)  # a grey image of any size: the transform brings it to the module's own

Output = Callable[[Any], Any]


@dataclass(frozen=True)
class GridLayer:
    """A layer whose output is a map of places.

    Attributes:
        name: dotted.
        prefix_tokens: where the output is a sequence, tokens in front of a square of places; None
            where it is [n, d, h, w].
    """

    name: str
    prefix_tokens: int | None = None


@dataclass(kw_only=True)
class ModuleEncoder:
    """A frozen module and the transform of its images; make one with `module_encoder`.

    Attributes:
        name: its name in the family.
        family: name of the family.
        module: in evaluation mode.
        transform: from a PIL image to what the module takes.
        output: from what the module returns to embeddings, or (embeddings, grid).
        grid_layer: where the map of places is, if the module does not return it.
        weights_hash: digest of the weights.
        target_layer: the layer whose per-sample gradient is taken; None: none is.
        is_thread_safe: whether threads may run it at once.
        base_view: the one view that embeddings are made of.
        embedding_dim, token_dim, token_shape, has_places: as of an `Encoder`.
        remarks: what the user should know.
    """

    name: str
    family: str
    module: Any
    transform: Any
    output: Output | None
    grid_layer: GridLayer | None
    weights_hash: str
    target_layer: str | None
    is_thread_safe: bool
    base_view: ViewRecipe
    embedding_dim: int
    token_dim: int
    token_shape: tuple[int, int]
    has_places: bool
    remarks: tuple[str, ...] = ()

    modality: ClassVar[str] = "image"
    lengths_differ: ClassVar[bool] = False
    exact_from: ClassVar[None] = None

    @property
    def target(self) -> nn.Linear | nn.Conv2d | None:
        """The target layer itself."""
        layer: Any = self.module.get_submodule(self.target_layer) if self.target_layer else None
        return layer

    def identity(self) -> Config:
        """Return name, weights and transform; of a module's code nothing can be known."""
        return {
            "family": self.family,
            "model": self.name,
            "weights": self.weights_hash,
            "transform": spelled(self.transform),
        }

    def count_tokens(self, inputs: Inputs) -> int:
        """Return the number of places of one view."""
        height, width = self.token_shape
        return height * width

    def prepare_trunk(self, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Leave the module as it is: nobody knows which part of it may be less exact."""

    def run(self, inputs: Inputs) -> Encoded:
        """Return the embeddings, and the grid where there is one."""
        (pixels,) = inputs
        with _kept(self.module, self.grid_layer) as kept:
            found = self.module(pixels)
        embeddings, grid = parts_of(found if self.output is None else self.output(found))
        if kept and self.grid_layer is not None:
            grid = _placed(kept[-1], self.grid_layer)
        return Encoded(embeddings, None if grid is None else TokenGrid(grid))

    def class_token_split(self) -> ClassTokenSplit | None:
        """Return None: its gradients go the general way."""
        return None


@dataclass(kw_only=True)
class PixelModuleEncoder(ModuleEncoder):
    """One that also takes views of images: its transform says what pixels are normalised by."""

    image_size: int
    patch_size: int
    statistics: Statistics


def module_encoder(
    module: nn.Module,
    transform: Any,
    *,
    name: str,
    family: str,
    weights_hash: str,
    target_layer: str | None = None,
    output: Output | None = None,
    grid_layer: GridLayer | None = None,
    is_thread_safe: bool = False,
    crops_centre: bool = False,
    remarks: tuple[str, ...] = (),
) -> ModuleEncoder:
    """Return a module as an encoder; one forward of a grey image tells its widths.

    Args:
        module: from images [n, 3, h, w] to embeddings [n, e], or maps [n, e, h, w], or (embeddings,
            grid [n, h, w, d]); set to evaluation mode and frozen.
        transform: from a PIL image to a tensor [3, h, w].
        name: of the module.
        family: of the encoder.
        weights_hash: digest of the weights.
        target_layer: dotted name of the layer to differentiate; None: the last attention's output
            projection, if any.
        output: from what the module returns to what is said above.
        grid_layer: where a map of places is, if the module does not return it.
        is_thread_safe: whether threads may run the module at once.
        crops_centre: whether the transform keeps a square of the image's centre alone.
        remarks: what the user should know.

    Raises:
        UsageError: transform, output or target layer cannot be used.
    """
    module.eval().requires_grad_(False)
    view = transformed(transform, np.full(PROBE, 128, np.uint8))
    side = max(view.shape[1:])
    made = {
        "name": name,
        "family": family,
        "module": module,
        "transform": transform,
        "output": output,
        "grid_layer": grid_layer,
        "weights_hash": weights_hash,
        "target_layer": _target(module, target_layer),
        "is_thread_safe": is_thread_safe,
        "base_view": TransformedView(transform, side, crops_centre),
        "remarks": remarks,
    }
    sketch = ModuleEncoder(
        **made, embedding_dim=0, token_dim=0, token_shape=(1, 1), has_places=False
    )
    with torch.no_grad():
        device = next((one.device for one in module.parameters()), torch.device("cpu"))
        encoded = sketch.run((view[None].to(device),))
    width = int(encoded.embeddings.shape[1])
    grid = None if encoded.grid is None else encoded.grid.tokens
    widths: dict[str, Any] = {
        "embedding_dim": width,
        "token_dim": width if grid is None else int(grid.shape[-1]),
        "token_shape": (1, 1) if grid is None else (int(grid.shape[1]), int(grid.shape[2])),
        "has_places": grid is not None,
    }
    statistics = statistics_of(transform)
    if statistics is None or view.shape[1] != view.shape[2]:
        return ModuleEncoder(**made, **widths)
    patch = max(1, side // widths["token_shape"][0]) if grid is not None else 1
    return PixelModuleEncoder(
        **made, **widths, image_size=side, patch_size=patch, statistics=statistics
    )


def parts_of(found: Any) -> tuple[Tensor, Tensor | None]:
    """Return embeddings [n, e] and a grid [n, h, w, d], if any, of what a module returns.

    Raises:
        UsageError: it is none of what can be read.
    """
    if isinstance(found, Mapping) and "embeddings" in found:
        found = (found["embeddings"], found.get("patches"))
    if isinstance(found, tuple) and len(found) == 2:
        embeddings, grid = found
        has_grid = grid is None or (isinstance(grid, Tensor) and grid.ndim == 4)
        if isinstance(embeddings, Tensor) and embeddings.ndim == 2 and has_grid:
            return embeddings, grid
    if isinstance(found, Tensor) and found.ndim == 2:
        return found, None
    if isinstance(found, Tensor) and found.ndim == 4:
        return found.mean(dim=(2, 3)), found.permute(0, 2, 3, 1)
    shape = f" {list(found.shape)}" if isinstance(found, Tensor) else ""
    raise UsageError(
        "the module returns no embeddings",
        expected="a tensor [n, e], a map [n, e, h, w], or (embeddings, grid [n, h, w, d])",
        found=f"{type(found).__name__}{shape}",
        hint="output=lambda returned: ... takes them out of it",
    )


def _target(module: nn.Module, asked: str | None) -> str | None:
    if asked is not None:
        refuse_other_layer(module, asked)
        return asked
    last = [name for name in differentiable(module) if name.endswith(LAST_PROJECTIONS)]
    return last[-1] if last else None


def _placed(found: Tensor, layer: GridLayer) -> Tensor | None:
    """Return a kept output as [n, h, w, d]."""
    if layer.prefix_tokens is None:
        return found.permute(0, 2, 3, 1)
    tokens = found[:, layer.prefix_tokens :]
    side = round(tokens.shape[1] ** 0.5)
    return tokens.unflatten(1, (side, side)) if side * side == tokens.shape[1] else None


class _Keeping(local):
    """The layer whose output is kept in this thread's forward, and what it gave."""

    layer: nn.Module | None = None
    outputs: list[Tensor]


_KEEPING = _Keeping()


def _keep(module: nn.Module, entered: object, output: Tensor) -> None:
    if module is _KEEPING.layer:
        _KEEPING.outputs.append(output)


@contextmanager
def _kept(module: nn.Module, layer: GridLayer | None) -> Iterator[list[Tensor]]:
    """Keep what a layer gives in one forward."""
    outputs: list[Tensor] = []
    if layer is None:
        yield outputs
        return
    kept = module.get_submodule(layer.name)
    if _keep not in kept._forward_hooks.values():
        kept.register_forward_hook(_keep)
    _KEEPING.layer, _KEEPING.outputs = kept, outputs
    try:
        yield outputs
    finally:
        _KEEPING.layer = None
