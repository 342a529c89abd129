"""Any timm model, frozen, with its own transform, at any input size it can take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isqrt
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from timm.layers import RelPosMlp
from torch import Tensor, nn

from fungistore.backbones.encoder import Encoded, TokenGrid
from fungistore.backbones.timm_vit.class_token import TimmSplit, splits_class_token
from fungistore.backbones.timm_vit.fitting import some
from fungistore.backbones.timm_vit.layout import Layout
from fungistore.backbones.timm_vit.masking import can_mask, masking
from fungistore.backbones.timm_vit.quantized import quantize_linears
from fungistore.backbones.timm_vit.variants import spelled_transform
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.machine.compiling import compile_for_shapes
from fungistore.modalities.image.inference import InferenceView
from fungistore.modalities.image.pixels import NormalizedViews, Statistics
from fungistore.modalities.views import Inputs, ViewRecipe
from fungistore.quantities import counted

# Their buffers are computed with as their weights are; a rotary embedding's must stay exact.
BUFFERS_MEET_WEIGHTS = (nn.modules.batchnorm._BatchNorm, RelPosMlp)
IN_FLOAT32 = "the model computes in float32 throughout: it has no trunk of blocks for --dtype"


@dataclass(eq=False)
class TimmViT:
    """A frozen model and what the rest of the program needs to know about it.

    Attributes:
        name: timm's architecture name, without the weights' tag.
        module: timm's module, in evaluation mode, parameters frozen; `module(pixels)` is the
            embedding. Typed as Any: what timm's families share, they share by name alone.
        image_size: side of the square input in pixels.
        patch_size: side of a patch, or of a map's cell, in pixels.
        embedding_dim: width E of the embedding (after a CLIP-style projection head, if any).
        token_dim: width D of the blocks and of the patch tokens, or channels of the map.
        prefix_tokens: class, distillation and register tokens in front of the patches.
        pooling: how timm pools: "token", "avg", "map", ...
        target_layer: dotted name of the layer whose per-sample gradient is taken; None: none is.
        data_config: timm's evaluation transform for these weights at this image size.
        weights_hash: digest of the weights as they were stored.
        layout: how its features have their places; None: they have none.
        cells: tokens, or cells of its map, a side; None: as many patches as fit an image.
        is_plain: whether it is embeddings, `blocks` and a norm in line, so that it has a trunk.
        candidates: layers that may be differentiated, for who has to name one.
        origin: where the transform comes from, in words.
        left_out: heads and projections of the stored weights that the model has no place for.
        doubts: what could not be told for certain of the weights.
        taken: which of several encoders in a file the weights are, in words.
        adapter: what was trained of it, or added to it, by `fungi adapt`: method, settings and
            digest; None: it is as its weights were stored.
        masks_patches: whether it can do without some of its patches: then inputs are (pixels,), or
            (pixels, bool [n, rows, columns]).
        mask_token: what stands in their place, [D]; None: the mean of a view's patch embeddings.
        dtype: type of pixels that the module takes; `prepare_trunk` changes it.
    """

    name: str
    module: Any
    image_size: int
    patch_size: int
    embedding_dim: int
    token_dim: int
    prefix_tokens: int
    pooling: str
    target_layer: str | None
    data_config: Mapping[str, Any]
    weights_hash: str
    layout: Layout | None = "tokens"
    cells: int | None = None
    is_plain: bool = True
    candidates: tuple[str, ...] = ()
    origin: str = ""
    left_out: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    taken: str = ""
    adapter: Config | None = None
    masks_patches: bool = False
    mask_token: Float[Tensor, " d"] | None = None
    dtype: torch.dtype = field(default=torch.float32, init=False)

    family: ClassVar[str] = "timm"
    modality: ClassVar[str] = "image"
    lengths_differ: ClassVar[bool] = False
    is_thread_safe: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Give the patch embedding its mask, once."""
        if self.masks_patches:
            can_mask(self.module.patch_embed)

    @property
    def token_shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.cells or max(1, self.image_size // self.patch_size)
        return side, side

    @property
    def has_places(self) -> bool:
        """Whether its features are a grid."""
        return self.layout is not None

    @property
    def target(self) -> nn.Linear | nn.Conv2d | None:
        """The target layer itself."""
        if self.target_layer is None:
            return None
        layer = self.module.get_submodule(self.target_layer)
        assert isinstance(layer, nn.Linear | nn.Conv2d)  # load_timm_vit has checked it
        return layer

    @property
    def target_block(self) -> int | None:
        """Index of the block that holds the target layer, None where it lies outside the blocks."""
        head, _, rest = (self.target_layer or "").partition(".")
        in_trunk = self.is_plain and head == "blocks"
        return int(rest.partition(".")[0]) if in_trunk else None

    @property
    def exact_from(self) -> nn.Module | None:
        """The target layer's block."""
        block = self.target_block
        return None if block is None else self.module.blocks[block]

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation of the pixels that the weights were trained on."""
        return tuple(self.data_config["mean"]), tuple(self.data_config["std"])

    @cached_property
    def base_view(self) -> ViewRecipe:
        """timm's evaluation transform."""
        return NormalizedViews(InferenceView(self.data_config), self.statistics)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The transform, what of the weights was left out, and what is doubtful, in words."""
        config = self.data_config
        numbers = "; ".join(
            f"{name} {', '.join(f'{value:.3g}' for value in config[name])}"
            for name in ("mean", "std")
        )
        head = f"; the embedding has {counted(self.embedding_dim, 'number')}"
        left_out = f"; left out: {some(self.left_out)}" if self.left_out else ""
        return (
            f"transform of {self.origin}: {self.image_size} px, {config['interpolation']}, "
            f"{config['crop_mode']} crop of {config['crop_pct']:.3g}, {numbers}{head}{left_out}",
            *([] if self.is_plain else [IN_FLOAT32]),
            *([f"weights of the file: {self.taken}"] if self.taken else []),
            *([f"adapted by {self.adapter['method']}"] if self.adapter is not None else []),
            *(f"warning: {doubt}" for doubt in self.doubts),
        )

    def identity(self) -> Config:
        """Return model, weights, size, pooling and transform, and the adapter if there is one."""
        adapted: Config = {} if self.adapter is None else {"adapter": self.adapter}
        return {
            "family": self.family,
            "model": self.name,
            "weights": self.weights_hash,
            "image_size": self.image_size,
            "pooling": self.pooling,
            "transform": spelled_transform(self.data_config),
        } | adapted

    def count_tokens(self, inputs: Inputs) -> int:
        """Return the number of patches of one view."""
        side: int = inputs[0].shape[-1]
        return max(1, side // self.patch_size) ** 2

    def prepare_trunk(self, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Make what runs before the target layer's block fast, in place: embeddings and blocks.

        Where the target layer lies outside the blocks, nothing does.

        Args:
            dtype: precision of the embeddings and of the blocks. int8 replaces the linear layers
                of all these blocks but the first, whose errors would pass through all others, and
                leaves all else as it is; the model is run once, on noise, to find the layers whose
                inputs do not suit it.
            compiled: compile each block, once for each shape of input.

        Raises:
            UsageError: it is int8, and the model has no such blocks.
        """
        if dtype == torch.int8 and not self.is_plain:
            raise UsageError(
                "the model has no trunk of eight bits",
                where=f"--dtype int8, --model {self.name}",
                expected="float32, or a vision transformer",
                found=type(self.module).__name__,
            )
        if self.target_block is None:
            return
        trunk = self.module.blocks[: self.target_block]
        if dtype == torch.int8:
            side = self.image_size
            noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
            quantize_linears(trunk[1:], lambda: self.module.forward_features(noise))
        else:
            _cast(self.module, trunk, dtype)
            self.dtype = dtype
        for block in trunk if compiled else ():
            compile_for_shapes(block)

    def run(self, inputs: Inputs) -> Encoded:
        """Return the embeddings and patch tokens of pixels, some patches of which may be masked."""
        pixels, *masked = inputs
        with masking(*masked, token=self.mask_token):
            features = self.module.forward_features(pixels.to(self.dtype))
        grid = None if self.layout is None else self._grid(features)
        return Encoded(self.module.forward_head(features), grid)

    def class_token_split(self) -> TimmSplit | None:
        """Return the model cut at its last `attn.proj`, where it pools its class token alone."""
        target = self.target
        if not isinstance(target, nn.Linear) or not splits_class_token(self.module, target):
            return None
        return TimmSplit(self.module, self.dtype, self.to_grid, self.mask_token)

    def to_grid(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n h w d"]:
        """Drop the prefix tokens and give the patch tokens their rows and columns (a square)."""
        patches = tokens[:, self.prefix_tokens :]
        side = round(patches.shape[1] ** 0.5)
        return patches.unflatten(1, (side, -1))

    def _grid(self, features: Tensor) -> TokenGrid | None:
        if self.layout == "channels first":
            return TokenGrid(features.permute(0, 2, 3, 1))
        if self.layout == "channels last":
            return TokenGrid(features)
        count = features.shape[1] - self.prefix_tokens
        return TokenGrid(self.to_grid(features)) if isqrt(count) ** 2 == count else None


def _cast(model: Any, trunk: nn.Module, dtype: torch.dtype) -> None:
    """Cast the model's own parameters and what it has before its blocks, and the trunk."""
    for parameter in model.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    for name, child in model.named_children():
        if name == "blocks":
            trunk.to(dtype)
            break
        for parameter in child.parameters():
            parameter.data = parameter.data.to(dtype)
        for module in child.modules():
            if isinstance(module, BUFFERS_MEET_WEIGHTS):
                module.to(dtype)
