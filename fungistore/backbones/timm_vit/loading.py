"""Builds timm's models, with pretrained weights or a file's, and refuses what cannot be had."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fungistore.backbones.adapters.adaptation import Adaptation
from fungistore.backbones.checkpoints import read_checkpoint
from fungistore.backbones.names import HUB, is_place, similar_model
from fungistore.backbones.timm_vit.anatomy import Anatomy, examine, is_plain
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.backbones.timm_vit.fitting import OWN_SIZE_HINT, OWN_SIZE_ONLY, fit_weights
from fungistore.backbones.timm_vit.masking import learnt_mask_token
from fungistore.backbones.timm_vit.places import read_place
from fungistore.backbones.timm_vit.targets import candidates, check_target, default_target
from fungistore.backbones.timm_vit.variants import (
    Variant,
    published_variant,
    variant_of_file,
)
from fungistore.backbones.timm_vit.weights import (
    digest_weights,
    download_weights,
    in_float32,
)
from fungistore.errors import FungiError, UsageError

NEAR_NAMES = 5
_FILLING = {
    Tensor.uniform_,
    Tensor.normal_,
    Tensor.erfinv_,
    Tensor.mul_,
    Tensor.add_,
    Tensor.clamp_,
}
NATIVE_EXTENTS = (0.3, 0.5)  # of an image's side: the least and the usual of views


def load_timm_vit(
    name: str,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
    target_layer: str | None = None,
    view_size: str | int = "model",
) -> TimmViT:
    """Build a timm model with pretrained weights, on the CPU, in float32.

    Args:
        name: timm name, with or without a weights tag (`vit_small_patch14_dinov2.lvd142m`).
        weights: a safetensors or weights-only torch file; None lets timm download its own.
        image_size: side of the input in pixels; position embeddings are resampled to it.
        target_layer: dotted name of a linear layer; default: the last block's `attn.proj`.
        view_size: "model", or that inputs of other sizes will come too: "native" or pixels a side.

    Raises:
        UsageError: the name, a size, the target layer or weights file cannot be used.
        FungiError: the pretrained weights could not be had.
    """
    outline = outlined(name, image_size=image_size, target_layer=target_layer, view_size=view_size)
    variant, anatomy = outline.variant, outline.anatomy
    architecture = outline.architecture
    left_out: tuple[str, ...] = ()
    taken = ""
    state: Mapping[str, Any]
    if weights is None:
        state = download_weights(outline.sketch, name)
    else:
        stored = read_checkpoint(weights)
        state, left_out, taken = stored.tensors, stored.left_out, stored.taken
        variant = outline.place or variant_of_file(name, state, weights)
    model = _create(variant, outline.sizes)
    fitted = fit_weights(
        model,
        in_float32(state),
        architecture,
        where=weights or name,
        extra_is_error=weights is not None,
        own_size=None if image_size is None else outline.own,
    )
    model.eval().requires_grad_(False)
    config = data_config(model, image_size)
    return TimmViT(
        name=architecture,
        module=model,
        image_size=config["input_size"][-1],
        patch_size=outline.patch_size,
        embedding_dim=anatomy.embedding_dim,
        token_dim=anatomy.token_dim,
        prefix_tokens=anatomy.prefix_tokens,
        pooling=str(getattr(model, "global_pool", "token")),
        target_layer=outline.target,
        data_config=config,
        weights_hash=digest_weights(fitted.used),
        layout=anatomy.layout,
        cells=anatomy.rows,
        is_plain=outline.is_plain,
        candidates=candidates(anatomy),
        origin=variant.source,
        left_out=tuple(dict.fromkeys((*left_out, *fitted.left_out))),
        taken=taken,
        doubts=variant.doubts,
        masks_patches=anatomy.keeps_patches,
        mask_token=learnt_mask_token(state, anatomy.token_dim),
    )


@dataclass(frozen=True)
class Outline:
    """A model before any weight: what it is made of, and what it will make of an image.

    Attributes:
        architecture: timm's name of it.
        variant: of the architecture, as its weights ask for.
        place: the same where the name is a place, such as a hub's; None otherwise.
        sizes: what its builder is told of sizes.
        sketch: the model on the meta device.
        own: the same of the model's own image size.
        anatomy: what it makes of an image.
        patch_size: side of a patch, or of a map's cell, in pixels.
        is_plain: whether it is embeddings, blocks and a norm in line.
        target: dotted name of the target layer; None: there is none.
    """

    architecture: str
    variant: Variant
    place: Variant | None
    sizes: Mapping[str, Any]
    sketch: Any
    own: Any
    anatomy: Anatomy
    patch_size: int
    is_plain: bool
    target: str | None

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.anatomy.height

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding."""
        return self.anatomy.embedding_dim

    @property
    def token_dim(self) -> int:
        """Width of the blocks, or channels of the map."""
        return self.anatomy.token_dim

    @property
    def token_shape(self) -> tuple[int, int]:
        """Rows and columns of patches, or of cells."""
        return self.anatomy.rows, self.anatomy.columns

    @property
    def lengths_differ(self) -> bool:
        """Images are all of one size."""
        return False

    @property
    def parameters(self) -> int:
        """How many numbers its weights are."""
        return sum(parameter.numel() for parameter in self.sketch.parameters())

    @property
    def target_layer(self) -> Any:
        """The target layer itself, without weights; None: there is none."""
        return None if self.target is None else self.sketch.get_submodule(self.target)


def outlined(
    name: str,
    *,
    image_size: int | None = None,
    target_layer: str | None = None,
    view_size: str | int = "model",
) -> Outline:
    """Outline a model in a fraction of a second; nothing is downloaded, no weight is made.

    Args:
        name: as `load_timm_vit` takes it.
        image_size: the same.
        target_layer: the same.
        view_size: the same.

    Raises:
        UsageError: the name, a size or the target layer cannot be used.
    """
    place = read_place(name) if is_place(name) else None
    architecture = place.name if place else name.partition(".")[0]
    if not timm.is_model(architecture):
        raise _unknown(name, architecture)
    several_sizes = view_size != "model"
    variant = place or published_variant(name)
    sketch = _sketch(variant, {})  # refuse before anything is downloaded
    sketch_of_own = sketch
    own = anatomy = examine(sketch, name, None)
    plain = is_plain(sketch)
    if image_size is None:
        _refuse_oblong(anatomy, name)
    elif plain:
        _check_image_size(image_size, anatomy.patch_size)
    sizes = _size_options(variant, image_size, several_sizes, plain)
    if image_size is not None or several_sizes:
        sketch = _sketch(variant, sizes)
        anatomy = examine(sketch, name, image_size)
    patch_size = own.patch_size if plain else anatomy.patch_size
    _check_view_size(sketch, name, view_size, replace(anatomy, patch_size=patch_size))
    target = default_target(sketch, anatomy)
    if target_layer is not None:
        target = check_target(sketch, anatomy, target_layer)
    return Outline(
        architecture, variant, place, sizes, sketch, sketch_of_own, anatomy, patch_size, plain,
        target,
    )  # fmt: skip


def data_config(model: Any, image_size: int | None) -> Mapping[str, Any]:
    """Return timm's evaluation transform of a model, for images of a size."""
    return resolve_data_config({"img_size": image_size} if image_size else {}, model=model)


def adapted(encoder: TimmViT, adaptation: Adaptation) -> TimmViT:
    """Return an encoder with what was trained for it, in its own module.

    Raises:
        MismatchError: it was trained for other weights.
        StoreError: the adaptation is damaged.
    """
    adaptation.refuse_other_base(encoder.identity())
    adaptation.apply(encoder.module, image_size=encoder.image_size)
    return replace(encoder, adapter=adaptation.identity())


def _unknown(name: str, architecture: str) -> UsageError:
    known = timm.list_models()
    near = difflib.get_close_matches(architecture, known, NEAR_NAMES, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "fungi models '*vit*' lists names"
    if architecture and any(architecture in one for one in known):  # a family, such as dinov2
        hint = f"`fungi models {architecture}` lists names with it"
    if "/" in name:
        hint = f"--model {HUB}{name}, if that repository has a model of timm's"
    if similar := similar_model(name):
        hint = f"--model {similar} is of that name, if not of the very same weights"
    return UsageError(
        "unknown model",
        where=f"--model {name}",
        expected="a name of timm's, or FAMILY:NAME of another family",
        hint=hint,
    )


def _size_options(
    variant: Variant, image_size: int | None, several_sizes: bool, plain: bool
) -> dict[str, Any]:
    """Return what a model's builder is told of sizes; convolutions take what they are given."""
    options: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    if plain:
        return options | ({"dynamic_img_size": True} if several_sizes else {})
    try:
        _sketch(variant, options)
    except _NoSuchOptionError:
        return {}
    return options


def _sketch(variant: Variant, sizes: Mapping[str, Any]) -> Any:
    with torch.device("meta"), _Unfilled():
        return _create(variant, sizes)


class _Unfilled(TorchFunctionMode):
    """Leaves out what would draw initial weights: a sketch has none, and torch takes its time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLING and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class _NoSuchOptionError(UsageError):
    """The model's builder knows no option for the size of images."""


def _create(variant: Variant, sizes: Mapping[str, Any]) -> Any:
    name = variant.name
    options: dict[str, Any] = {**variant.arguments, **sizes}
    if variant.config is not None:
        options["pretrained_cfg"] = dict(variant.config)
    if not variant.keeps_head:
        options["num_classes"] = 0
    if variant.overlay:
        options["pretrained_cfg_overlay"] = dict(variant.overlay)
    try:
        model: Any = timm.create_model(name, pretrained=False, **options)
    except TypeError as error:
        raise _NoSuchOptionError(
            OWN_SIZE_ONLY, where=f"--model {name}", found=str(error), hint=OWN_SIZE_HINT
        ) from error
    except Exception as error:  # timm's builders raise whatever they meet
        if "img_size" in sizes:
            raise UsageError(
                "the model cannot take images of this size",
                where=f"--model {name} --image-size {sizes['img_size']}",
                found=f"{type(error).__name__}: {error}",
                hint="leave out --image-size",
            ) from error
        raise FungiError(
            "the model cannot be created",
            where=f"--model {name}",
            found=f"{type(error).__name__}: {error}",
            hint="check the tag with `fungi models`",
        ) from error
    return model


def _refuse_oblong(anatomy: Anatomy, name: str) -> None:
    """Images are squares here, whatever the shape of those that a model was trained on."""
    if anatomy.height != anatomy.width:
        side = min(anatomy.height, anatomy.width)
        raise UsageError(
            "the model's own images are not square",
            where=f"--model {name}",
            expected="a square input",
            found=f"{anatomy.height} x {anatomy.width} pixels",
            hint=f"--image-size {side} takes squares",
        )


def _check_image_size(image_size: int, patch: int) -> None:
    if image_size < patch or image_size % patch:
        below = max(patch, image_size // patch * patch)
        raise UsageError(
            "the image size is not a multiple of the patch size",
            where=f"--image-size {image_size}",
            expected=f"a multiple of {patch}",
            hint=f"--image-size {below} or {below + patch}",
        )


def _check_view_size(sketch: Any, name: str, view_size: str | int, anatomy: Anatomy) -> None:
    """Refuse views of other sizes where the model cannot take them."""
    patch = anatomy.patch_size
    if is_plain(sketch):
        if isinstance(view_size, int) and view_size % patch:
            raise UsageError(
                "views cannot be of this size",
                where=f"--view-size {view_size}",
                expected=f"model, native, or a multiple of {patch}",
            )
        return
    if view_size == "model":
        return
    cells = [max(1, round(anatomy.rows * extent)) for extent in NATIVE_EXTENTS]
    for side in [view_size] if isinstance(view_size, int) else [cell * patch for cell in cells]:
        try:
            examine(sketch, name, int(side))
        except UsageError as error:
            raise UsageError(
                OWN_SIZE_ONLY,
                where=f"--model {name} --view-size {view_size}",
                found=f"at {side} pixels: {error.found}",
                hint=OWN_SIZE_HINT,
            ) from error
