"""open_clip's image sides as encoders: embeddings in the joint space, patch tokens, gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import nn

from fungistore.backbones.attention import UnfoldedAttention
from fungistore.backbones.encoder import ClassTokenSplit, Encoded, TokenGrid
from fungistore.backbones.target_layers import differentiable, refuse_other_layer
from fungistore.backbones.timm_vit.variants import spelled_transform
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.machine.compiling import compile_for_shapes
from fungistore.modalities.image.inference import InferenceView
from fungistore.modalities.image.pixels import NormalizedViews, Statistics
from fungistore.modalities.views import Inputs, ViewRecipe
from fungistore.quantities import counted


def unfold_attention(visual: Any) -> None:
    """Let the output projection of a vision transformer's last attention run as a layer."""
    blocks = _blocks(visual)
    if blocks is not None and type(blocks[-1].attn) is nn.MultiheadAttention:
        blocks[-1].attn = UnfoldedAttention(blocks[-1].attn)


def _blocks(visual: Any) -> Any:
    """Return the blocks of open_clip's own vision transformer, None of other image sides."""
    is_own = hasattr(visual, "_embeds") and hasattr(visual, "_pool")
    return visual.transformer.resblocks if is_own else None


@dataclass(kw_only=True)
class OpenClipImages:
    """The image side of an open_clip model; its embedding is that of `encode_image`.

    Attributes:
        name: its name in the family.
        module: the image side.
        image_size: side of its square input in pixels.
        embedding_dim: width of the joint space.
        data_config: open_clip's own transform in timm's words.
        weights_hash: digest of the image side's weights.
        target_layer: the layer whose per-sample gradient is taken; None: the last attention's
            output projection, where there is one.
        doubts: what open_clip warned of.
        dtype: type of pixels that the module takes; `prepare_trunk` changes it.
    """

    name: str
    module: Any
    image_size: int
    embedding_dim: int
    data_config: Mapping[str, Any]
    weights_hash: str
    target_layer: str | None = None
    doubts: tuple[str, ...] = ()
    dtype: torch.dtype = field(default=torch.float32, init=False)

    family: ClassVar[str] = "open_clip"
    modality: ClassVar[str] = "image"
    lengths_differ: ClassVar[bool] = False
    is_thread_safe: ClassVar[bool] = True

    def checked(self) -> OpenClipImages:
        """Return the encoder with its target layer settled.

        Raises:
            UsageError: the layer that was asked for is no layer that can be differentiated.
        """
        if self.target_layer is not None:
            refuse_other_layer(self.module, self.target_layer)
            return self
        blocks = [name for name in differentiable(self.module) if "blocks." in name]
        last = [name for name in blocks if name.endswith(("attn.out_proj", "attn.proj"))]
        return replace(self, target_layer=last[-1] if last else None)

    @property
    def has_places(self) -> bool:
        """Whether its tokens are the patches, row by row: those of open_clip's own transformers."""
        return _blocks(self.module) is not None and self.module.attn_pool is None

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels; of an image side without patches, of the whole image."""
        size: Any = getattr(self.module, "patch_size", None)
        if size is None:
            trunk = getattr(self.module, "trunk", None)
            size = getattr(getattr(trunk, "patch_embed", None), "patch_size", self.image_size)
        return int(size if isinstance(size, int) else size[0])

    @property
    def token_dim(self) -> int:
        """Width of the tokens; of an image side without tokens, of the embedding."""
        if self.has_places:
            return int(self.module.conv1.out_channels)
        return self.embedding_dim

    @property
    def token_shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = max(1, self.image_size // self.patch_size)
        return side, side

    @property
    def target(self) -> nn.Linear | nn.Conv2d | None:
        """The target layer itself."""
        layer: Any = self.module.get_submodule(self.target_layer) if self.target_layer else None
        return layer

    @property
    def exact_from(self) -> nn.Module | None:
        """The target layer's block, of open_clip's own transformers."""
        number = self._target_block
        return None if number is None else _blocks(self.module)[number]

    @property
    def _target_block(self) -> int | None:
        head = "transformer.resblocks."
        if _blocks(self.module) is None or not (self.target_layer or "").startswith(head):
            return None
        return int(str(self.target_layer).removeprefix(head).partition(".")[0])

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation of the pixels that the weights were trained on."""
        return tuple(self.data_config["mean"]), tuple(self.data_config["std"])

    @cached_property
    def base_view(self) -> ViewRecipe:
        """open_clip's own evaluation transform."""
        return NormalizedViews(InferenceView(self.data_config), self.statistics)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The transform, and what open_clip warned of."""
        config = self.data_config
        return (
            f"transform of open_clip's {self.name}: {self.image_size} px, "
            f"{config['interpolation']}, {config['crop_mode']}; the embedding has "
            f"{counted(self.embedding_dim, 'number')}",
            *(f"warning: {doubt}" for doubt in self.doubts),
        )

    def identity(self) -> Config:
        """Return model, weights, size and transform."""
        return {
            "family": self.family,
            "model": self.name,
            "weights": self.weights_hash,
            "image_size": self.image_size,
            "transform": spelled_transform(self.data_config),
        }

    def count_tokens(self, inputs: Inputs) -> int:
        """Return the number of patches of one view."""
        side: int = inputs[0].shape[-1]
        return max(1, side // self.patch_size) ** 2

    def prepare_trunk(self, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Make what runs before the target layer's block fast, in place.

        Image sides that are not open_clip's own transformers run in float32 as they are.

        Raises:
            UsageError: the precision is int8.
        """
        if dtype == torch.int8:
            raise UsageError(
                "the model has no trunk of eight bits",
                where=f"--dtype int8, --model {self.family}:{self.name}",
                expected="float32, bfloat16 or float16",
            )
        if (number := self._target_block) is None:
            return
        visual, blocks = self.module, _blocks(self.module)[:number]
        for module in (visual.conv1, visual.ln_pre, blocks):
            module.to(dtype)
        self.dtype = dtype
        for block in blocks if compiled else ():
            compile_for_shapes(block)

    def run(self, inputs: Inputs) -> Encoded:
        """Return the embeddings, and the patch tokens after the final norm where they have places.

        The tokens are those that the class token is chosen from, before the projection.
        """
        (pixels,) = inputs
        visual = self.module
        if not self.has_places:
            return Encoded(visual(pixels.to(self.dtype)), None)
        entered = visual.transformer(visual._embeds(pixels.to(self.dtype)))
        pooled, tokens = visual._pool(entered)
        if visual.proj is not None:
            pooled = pooled @ visual.proj
        side = isqrt(tokens.shape[1])
        return Encoded(pooled, TokenGrid(tokens.unflatten(1, (side, side))))

    def class_token_split(self) -> ClassTokenSplit | None:
        """Return None: its gradients go the general way."""
        return None
