"""Builds timm's vision transformers, with pretrained weights or a file's, and refuses others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from fungistore.backbones.checkpoints import read_checkpoint
from fungistore.backbones.names import HUB, is_place, similar_model
from fungistore.backbones.timm_vit.anatomy import Anatomy, examine
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.backbones.timm_vit.fitting import fit_weights
from fungistore.backbones.timm_vit.places import read_place
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
    place = read_place(name) if is_place(name) else None
    architecture = place.name if place else name.partition(".")[0]
    if not timm.is_model(architecture):
        raise _unknown(name, architecture)
    several_sizes = view_size != "model"
    variant = place or published_variant(name)
    with torch.device("meta"):  # refuse before anything is downloaded
        sketch = _create(variant, None, several_sizes=False)
    anatomy = examine(sketch, name, None)
    patch_size = anatomy.patch_size
    if image_size is None:
        _refuse_oblong(anatomy, name)
    else:
        _check_image_size(image_size, patch_size)
    if image_size is not None or several_sizes:
        with torch.device("meta"):
            sketch = _create(variant, image_size, several_sizes)
        anatomy = examine(sketch, name, image_size)
    if isinstance(view_size, int) and view_size % patch_size:
        raise UsageError(
            "views cannot be of this size",
            where=f"--view-size {view_size}",
            expected=f"model, native, or a multiple of {patch_size}",
        )
    left_out: tuple[str, ...] = ()
    taken = ""
    state: Mapping[str, Any]
    if weights is None:
        state = download_weights(sketch, name)
    else:
        stored = read_checkpoint(weights)
        state, left_out, taken = stored.tensors, stored.left_out, stored.taken
        variant = place or variant_of_file(name, state, weights)
    model = _create(variant, image_size, several_sizes)
    fitted = fit_weights(
        model,
        in_float32(state),
        architecture,
        where=weights or name,
        extra_is_error=weights is not None,
    )
    model.eval().requires_grad_(False)
    config = resolve_data_config({"img_size": image_size} if image_size else {}, model=model)
    return TimmViT(
        name=architecture,
        module=model,
        image_size=config["input_size"][-1],
        patch_size=patch_size,
        embedding_dim=embedding_dim(model),
        token_dim=model.embed_dim,
        prefix_tokens=anatomy.prefix_tokens,
        pooling=str(getattr(model, "global_pool", "token")),
        target_layer=_check_target(model, target_layer),
        data_config=config,
        weights_hash=digest_weights(fitted.used),
        has_places=anatomy.has_places,
        origin=variant.source,
        left_out=tuple(dict.fromkeys((*left_out, *fitted.left_out))),
        taken=taken,
        doubts=variant.doubts,
    )


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


def default_target(model: Any) -> str | None:
    """Return the last block's attention output projection: the last linear layer of that name."""
    last = len(model.blocks) - 1
    names = [key for key, m in model.blocks[last].named_modules() if isinstance(m, nn.Linear)]
    attention = [name for name in names if "attn" in name and name.endswith("proj")]
    return f"blocks.{last}.{attention[-1]}" if attention else None


def embedding_dim(model: Any) -> int:
    """Return the width of `model(pixels)`."""
    head = getattr(model, "head", None)
    return int(head.out_features if isinstance(head, nn.Linear) else model.num_features)


def _create(variant: Variant, image_size: int | None, several_sizes: bool) -> Any:
    name = variant.name
    options: dict[str, Any] = dict(variant.arguments)
    if variant.config is not None:
        options["pretrained_cfg"] = dict(variant.config)
    if not variant.keeps_head:
        options["num_classes"] = 0
    if image_size is not None:
        options["img_size"] = image_size
    if several_sizes:
        options["dynamic_img_size"] = True
    if variant.overlay:
        options["pretrained_cfg_overlay"] = dict(variant.overlay)
    try:
        model: Any = timm.create_model(name, pretrained=False, **options)
    except TypeError as error:
        raise UsageError(
            "the model takes images of its own size only",
            where=f"--model {name}",
            found=str(error),
            hint="leave out --image-size and use --view-size model",
        ) from error
    except Exception as error:  # timm's builders raise whatever they meet
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


def _check_target(model: Any, target_layer: str | None) -> str | None:
    """Return the layer to differentiate; None where the attention has none of its own."""
    name = target_layer or default_target(model)
    if name is None:
        return None
    linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    if name not in linear:
        near = difflib.get_close_matches(name, linear, NEAR_NAMES, cutoff=0.0)
        raise UsageError(
            "the target layer is not a linear layer of the model",
            where=f"--target-layer {name}",
            expected=f"a linear layer such as {', '.join(near)}",
        )
    return name
