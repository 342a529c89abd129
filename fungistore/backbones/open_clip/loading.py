"""Builds open_clip's models with published weights or a file's, and refuses others by name."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fungistore.backbones.families import BackboneCard
from fungistore.backbones.joint import JointEncoder
from fungistore.backbones.open_clip.encoder import OpenClipImages, unfold_attention
from fungistore.backbones.open_clip.texts import OpenClipTexts
from fungistore.backbones.timm_vit.weights import digest_weights
from fungistore.errors import FungiError, UsageError
from fungistore.extras import install_command

FAMILY = "open_clip"
EXTRA = "open-clip"
PLACES = ("hf-hub:", "local-dir:")  # which say where weights are
NEAR_NAMES = 5
# how open_clip brings images to size, in timm's words
CROP_MODES: Mapping[str, str] = MappingProxyType(
    {"shortest": "center", "squash": "squash", "longest": "border"}
)


@dataclass(frozen=True)
class _Loaded:
    """A whole model as it was built, and what open_clip warned of."""

    model: Any
    doubts: tuple[str, ...]


def load_images(
    name: str,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
    target_layer: str | None = None,
    view_size: str | int = "model",
) -> OpenClipImages:
    """Build the image side of an open_clip model, on the CPU, in float32.

    Its embedding is that of `encode_image`, not normalised.

    Args:
        name: `ARCHITECTURE/TAG`, `ARCHITECTURE`, `hf-hub:ORG/NAME` or `local-dir:FOLDER`.
        weights: a file of the whole model's weights; None: those of the tag.
        image_size: side of the input in pixels; position embeddings are resampled to it.
        target_layer: dotted name of a linear layer of the image side.
        view_size: "model": views of other sizes than the model's have no position embeddings.

    Raises:
        UsageError: open_clip is not installed, or name, size, layer or weights cannot be used.
        FungiError: the published weights could not be had.
    """
    if view_size != "model":
        raise UsageError(
            "the model takes views of its own size only",
            where=f"--view-size {view_size}",
            expected="model",
            found=f"--model {FAMILY}:{name}",
        )
    loaded = _built(name, weights, image_size)
    return _images(name, loaded, target_layer)


def load_both(name: str, *, weights: Path | None = None) -> JointEncoder:
    """Build both sides of an open_clip model, on the CPU, in float32.

    Args:
        name: as for `load_images`.
        weights: as for `load_images`.

    Raises:
        UsageError: open_clip is not installed, or name or weights cannot be used.
        FungiError: the weights, or the tokenizer, could not be had.
    """
    loaded = _built(name, weights, None)
    open_clip = _package()
    model, architecture = loaded.model, _parts(name)[0]
    try:
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:  # a hub's library raises whatever it meets
        raise FungiError(
            "the model's tokenizer cannot be had",
            where=f"{FAMILY}:{name}",
            found=f"{type(error).__name__}: {error}",
            hint="it may need `pip install transformers`, and a connection the first time",
        ) from error
    state = {key: one for key, one in model.state_dict().items() if not key.startswith("visual.")}
    texts = OpenClipTexts(f"{FAMILY}:{architecture}", model, tokenizer, digest_weights(state))
    return JointEncoder(f"{FAMILY}:{name}", _images(name, loaded, None), texts)


def describe(name: str) -> BackboneCard:
    """Return the card of a model, without any weights.

    Raises:
        UsageError: there is no such architecture.
    """
    card = _described(_parts(name)[0])
    return BackboneCard(f"{FAMILY}:{name}", *card)


@cache
def _described(architecture: str) -> tuple[int, int | None, int | None, int, str | None]:
    logging.disable(logging.WARNING)  # that there are no weights is said through the root logger
    try:
        with torch.device("meta"):
            model = _created(architecture, None, None, device="meta")
    finally:
        logging.disable(logging.NOTSET)
    images = _images(architecture, _Loaded(model, ()), None, is_sketch=True)
    parameters = sum(one.numel() for one in images.module.parameters())
    sizes = images.image_size, images.patch_size, images.embedding_dim
    return (parameters, *sizes, images.target_layer)


def joint_of_timm(name: str) -> str | None:
    """Return the model whose image side is timm's model of a name, as the hub has them together."""
    open_clip = _package()
    repository = f"timm/{name}/"
    for architecture, tag in open_clip.list_pretrained():
        if open_clip.get_pretrained_cfg(architecture, tag).get("hf_hub") == repository:
            return f"{architecture}/{tag}"
    return None


def _package() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise UsageError(
            "open_clip is not installed",
            where=f"--model {FAMILY}:...",
            hint=install_command(EXTRA, "open_clip_torch"),
        ) from error
    return open_clip


def _parts(name: str) -> tuple[str, str | None]:
    """Return the architecture, or place, and the tag."""
    if name.startswith(PLACES):
        return name, None
    architecture, _, tag = name.partition("/")
    return architecture, tag or None


def _built(name: str, weights: Path | None, image_size: int | None) -> _Loaded:
    """Build a model with its weights.

    Raises:
        UsageError: there is no such model, tag or file, or the file is another model's.
        FungiError: the weights could not be had.
    """
    architecture, tag = _parts(name)
    _refuse_unknown(name, architecture, tag, weights)
    if weights is not None and not weights.is_file():
        raise UsageError("no such weights file", where=f"--weights {weights}")
    source = tag if weights is None else str(weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = _created(architecture, source, image_size)
        except Exception as error:  # open_clip raises whatever it meets
            if weights is None:
                raise FungiError(
                    "pretrained weights cannot be had",
                    where=f"--model {FAMILY}:{name}",
                    found=f"{type(error).__name__}: {error}",
                    hint="check the connection; or give a file with --weights",
                ) from error
            raise UsageError(
                "the weights are not the model's",
                where=f"--weights {weights}",
                expected=f"a file of open_clip's {architecture}, image and text side",
                found=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
                hint="fungi models open_clip: lists architectures",
            ) from error
    return _Loaded(model, tuple(str(one.message).splitlines()[0] for one in caught))


def _refuse_unknown(name: str, architecture: str, tag: str | None, weights: Path | None) -> None:
    open_clip = _package()
    if name.startswith(PLACES):
        if weights is not None:
            raise UsageError(
                "a place has its own weights",
                where=f"--weights {weights}",
                found=f"--model {FAMILY}:{name}",
                hint="leave out --weights",
            )
        return
    known = open_clip.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, NEAR_NAMES, cutoff=0.4)
        raise UsageError(
            "open_clip has no such model",
            where=f"--model {FAMILY}:{name}",
            expected=f"{FAMILY}:ARCHITECTURE/TAG, as `fungi models open_clip:` lists them",
            found=architecture,
            hint=f"did you mean {', '.join(near)}?" if near else None,
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights is None and tag not in tags:
        raise UsageError(
            "the model has no weights of this tag" if tag else "the model's weights are not named",
            where=f"--model {FAMILY}:{name}",
            expected=f"{FAMILY}:{architecture}/TAG with TAG of {', '.join(tags)}"
            if tags
            else "--weights FILE: none are published",
            found=repr(tag) if tag else "no tag, and no --weights",
        )


def _created(
    architecture: str, source: str | None, image_size: int | None, *, device: str = "cpu"
) -> Any:
    model = _package().create_model(
        architecture,
        pretrained=source,
        force_image_size=image_size,
        pretrained_text=False,
        device=device,
    )
    return model.eval().requires_grad_(False)


def _images(
    name: str, loaded: _Loaded, target_layer: str | None, *, is_sketch: bool = False
) -> OpenClipImages:
    open_clip = _package()
    visual = loaded.model.visual
    weights_hash = "" if is_sketch else digest_weights(visual.state_dict())
    unfold_attention(visual)
    config = open_clip.get_model_preprocess_cfg(loaded.model)
    size = config["size"]
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width:
        raise UsageError(
            "the model's own images are not square",
            where=f"--model {FAMILY}:{name}",
            expected="a square input",
            found=f"{height} x {width} pixels",
        )
    data_config = {
        "input_size": (3, height, width),
        "interpolation": config.get("interpolation", "bicubic"),
        "crop_pct": 1.0,
        "crop_mode": CROP_MODES[config.get("resize_mode", "shortest")],
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
    }
    images = OpenClipImages(
        name=name,
        module=visual,
        image_size=height,
        embedding_dim=_width(loaded.model, visual),
        data_config=data_config,
        weights_hash=weights_hash,
        target_layer=target_layer,
        doubts=loaded.doubts,
    )
    return images.checked()


def _width(model: Any, visual: nn.Module) -> int:
    """Return the width of the joint space, by the text side that is to meet it."""
    width = getattr(visual, "output_dim", None)
    if isinstance(width, int):
        return width
    projection = getattr(getattr(model, "text", model), "text_projection", None)
    if isinstance(projection, nn.Linear):
        return projection.out_features
    return int(projection.shape[1] if projection is not None else model.text.output_dim)
