"""Builds torchvision's classifiers without their last layer, with published weights or a file's."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from fungistore.backbones.attention import UnfoldedAttention
from fungistore.backbones.checkpoints import read_checkpoint
from fungistore.backbones.families import BackboneCard
from fungistore.backbones.modules.encoder import GridLayer, ModuleEncoder, module_encoder
from fungistore.backbones.timm_vit.fitting import refuse_misfit
from fungistore.backbones.timm_vit.weights import digest_weights
from fungistore.errors import FungiError, UsageError

FAMILY = "torchvision"
NEAR_NAMES = 5
HEADS = ("fc", "classifier", "heads", "head")  # where a classifier is
# Layers whose output is the last map of places [n, d, h, w]; the first that a model has is taken.
MAPS = (
    *("permute", "layer4", "trunk_output", "conv5", "Mixed_7c", "inception5b", "blocks"),
    *("layers", "features"),
)
WITH_AUXILIARIES = ("googlenet", "inception_v3")
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # classifiers that only training has


def load_torchvision(
    name: str,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
    target_layer: str | None = None,
    view_size: str | int = "model",
) -> ModuleEncoder:
    """Build a torchvision classifier without its last layer, on the CPU, in float32.

    Its images go through the transform of its weights; without a name of weights, of torchvision's
    default ones.

    Args:
        name: `resnet50`, or with the name of published weights, `resnet50.IMAGENET1K_V2`.
        weights: a file instead.
        image_size: side of the input in pixels; the transform resizes in proportion.
        target_layer: dotted name of a linear layer; default: of a vision transformer the output
            projection of its last attention. The name of an attention itself, such as
            `encoder.layers.encoder_layer_11.self_attention`, stands for what FUNGI's reference code
            computed there and published as DeiT's; see `PublishedProjection`.
        view_size: "model", or that views of other sizes come too, which vision transformers of
            torchvision do not take.

    Raises:
        UsageError: name, size, layer or weights cannot be used.
        FungiError: the published weights could not be had.
    """
    architecture, _, tag = name.partition(".")
    entry = _entry(name, architecture, tag, weights)
    state, origin = _state(name, entry, weights)
    model = _created(architecture, image_size, entry)
    if isinstance(model, VisionTransformer):
        if view_size != "model":
            raise UsageError(
                "the model takes views of its own size only",
                where=f"--view-size {view_size}",
                expected="model",
                found=f"--model {FAMILY}:{name}",
            )
        state = interpolate_embeddings(model.image_size, model.patch_size, dict(state))
    removed = _remove_classifier(model)
    kept = {key: one for key, one in state.items() if not key.startswith((*removed, *AUXILIARY))}
    _fill(model, kept, weights or name)
    transform = _transform(entry, image_size)
    return module_encoder(
        model,
        transform,
        name=architecture,
        family=FAMILY,
        weights_hash=digest_weights(kept),
        target_layer=_targeted(model, target_layer),
        grid_layer=_grid_layer(model),
        is_thread_safe=True,
        crops_centre=True,
        remarks=(f"transform of torchvision's {origin}: {transform}".replace("\n", ""),),
    )


def list_names() -> list[str]:
    """Return the names of classifiers with the names of their weights."""
    return [
        f"{name}.{entry.name}"
        for name in models.list_models(module=models)
        for entry in models.get_model_weights(name)
    ]


def describe(name: str) -> BackboneCard:
    """Return the card of a model, of what is said of its weights; nothing is downloaded.

    Raises:
        UsageError: there is no such model, or no such weights of it.
    """
    architecture, _, tag = name.partition(".")
    entry = _entry(name, architecture, tag, None)
    model = _created(architecture, None, entry)
    _remove_classifier(model)
    sketch = module_encoder(
        model, _transform(entry, None), name=architecture, family=FAMILY, weights_hash=""
    )
    return BackboneCard(
        f"{FAMILY}:{name}",
        int(entry.meta["num_params"]),
        int(entry.transforms().crop_size[0]),
        getattr(model, "patch_size", None),
        sketch.embedding_dim,
        _default_target(model),
    )


def _entry(name: str, architecture: str, tag: str, weights: Path | None) -> Any:
    """Return torchvision's description of published weights: those that are meant, or default."""
    known = models.list_models(module=models)
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, NEAR_NAMES, cutoff=0.4)
        raise UsageError(
            "torchvision has no such classifier",
            where=f"--model {FAMILY}:{name}",
            found=architecture,
            hint=f"did you mean {', '.join(near)}?" if near else "fungi models torchvision: lists",
        )
    entries = models.get_model_weights(architecture)
    if not tag:
        return entries.DEFAULT
    names = [entry.name for entry in entries]
    if tag not in names:
        raise UsageError(
            "the model has no weights of this name",
            where=f"--model {FAMILY}:{name}",
            expected=f"one of {', '.join(names)}",
            found=tag,
        )
    return entries[tag]


def _state(name: str, entry: Any, weights: Path | None) -> tuple[Mapping[str, Tensor], str]:
    if weights is not None:
        return read_checkpoint(weights).tensors, f"{entry}"
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # whatever a download raises
        raise FungiError(
            "pretrained weights cannot be had",
            where=f"--model {FAMILY}:{name}",
            found=f"{type(error).__name__}: {error}",
            hint="check the connection; or give a file with --weights",
        ) from error
    return state, f"{entry}"


def _created(architecture: str, image_size: int | None, entry: Any) -> nn.Module:
    options: dict[str, Any] = {}
    if architecture in WITH_AUXILIARIES:
        # its published weights want the pixels of an older transform, which it makes itself
        options = {"aux_logits": False, "init_weights": False, "transform_input": True}
    if architecture.startswith("vit_"):
        options["image_size"] = image_size or int(entry.transforms().crop_size[0])
    try:
        model: nn.Module = models.get_model(architecture, weights=None, **options)
    except ValueError as error:  # a size that its patches do not divide
        raise UsageError(
            "the model takes no images of this size",
            where=f"--image-size {image_size}",
            found=str(error),
        ) from error
    return model


def _remove_classifier(model: Any) -> tuple[str, ...]:
    """Take the last layer away, in place; returns what its weights' names begin with."""
    if isinstance(model, models.SqueezeNet):
        model.classifier = nn.AdaptiveAvgPool2d(1)  # its classifier is a convolution
        return ("classifier.",)
    head = next(name for name in HEADS if hasattr(model, name))
    linear = [
        name
        for name, one in getattr(model, head).named_modules(prefix=head)
        if isinstance(one, nn.Linear)
    ]
    parent, _, last = linear[-1].rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Identity())
    return (f"{linear[-1]}.",)


def _fill(model: nn.Module, state: Mapping[str, Tensor], where: object) -> None:
    expected = model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    odd = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    refuse_misfit(model, missing, extra, odd, where)
    model.load_state_dict(dict(state), strict=True)


def _transform(entry: Any, image_size: int | None) -> Any:
    """Return the transform of the weights, for another size in the same proportion."""
    transform = copy.copy(entry.transforms())
    if image_size is not None:
        ratio = transform.resize_size[0] / transform.crop_size[0]
        transform.crop_size = [image_size]
        transform.resize_size = [max(image_size, round(image_size * ratio))]
    return transform


def _default_target(model: nn.Module) -> str | None:
    if not isinstance(model, VisionTransformer):
        return None
    last = f"encoder.layers.encoder_layer_{len(model.encoder.layers) - 1}"
    return f"{last}.self_attention.out_proj"


def _targeted(model: Any, asked: str | None) -> str | None:
    """Let the target layer run as a layer, where it is in torch's fused attention."""
    name = asked or _default_target(model)
    if name is None:
        return None
    attention = {key for key, one in model.named_modules() if type(one) is nn.MultiheadAttention}
    parent = name if name in attention else name.rpartition(".")[0]
    if parent not in attention:
        return name
    unfolded = UnfoldedAttention(model.get_submodule(parent))
    above, _, last = parent.rpartition(".")
    setattr(model.get_submodule(above), last, unfolded)
    if name != parent:
        return name
    unfolded.publish()
    return f"{parent}.published"


def _grid_layer(model: nn.Module) -> GridLayer | None:
    if isinstance(model, VisionTransformer):
        return GridLayer("encoder", prefix_tokens=1)
    found = next((name for name in MAPS if hasattr(model, name)), None)
    return None if found is None else GridLayer(found)
