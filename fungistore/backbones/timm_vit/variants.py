"""Which of timm's variants some weights are: what their head is, and their transform.

A tag says it (`vit_base_patch16_clip_224.openai`). A name without one stands for timm's default
tag where timm's own weights are taken; a file's variant is read off the file: the shape of its
head, and timm's config.json beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm

from fungistore.backbones.timm_vit.fitting import some
from fungistore.errors import UsageError

JOINT_SPACE = ("clip", "pe_core")  # trained on images and texts together
FINE_TUNED = ("in1k", "in12k", "in22k")  # tags of weights with a true classifier
TRANSFORM_FIELDS = ("interpolation", "crop_pct", "crop_mode", "mean", "std")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
MOST_CROP = 2  # timm's largest is 1.15, of an image with borders
CONFIG = "config.json"  # beside weights of timm's hub
# where a head's weight is, and which of its sides is its output
HEADS = {
    "head.weight": 0,
    "fc.weight": 0,
    "head.fc.weight": 0,
    "head.proj.weight": 0,
    "visual.proj": 1,
    "module.visual.proj": 1,
    "visual.head.weight": 0,
    "visual.head.proj.weight": 0,
}


@dataclass(frozen=True)
class Variant:
    """One of timm's variants of an architecture.

    Attributes:
        name: of the model, with a tag where one is known.
        keeps_head: whether its head belongs to the embedding.
        overlay: fields of the transform that override the tag's.
        source: where the transform comes from, in words.
        doubts: what a user should know, since it could not be told for certain.
        config: timm's description of the weights, of a model that is none of timm's own.
        arguments: what such a model's builder gets.
    """

    name: str
    keeps_head: bool
    source: str
    overlay: Mapping[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def spelled_transform(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fingerprint has of a transform: as it is read back from JSON."""
    fields = ((key, config[key]) for key in TRANSFORM_FIELDS)
    return {key: list(one) if isinstance(one, tuple) else one for key, one in fields}


def keeps_head(name: str) -> bool:
    """Whether the model's last linear layer projects into CLIP's joint space, so belongs to it.

    timm stores that projection in the classifier's place. Fine-tuned weights have a true
    classifier there; a name without a tag stands for timm's default weights.

    Raises:
        UsageError: the architecture has no such tag.
    """
    architecture, _, tag = name.partition(".")
    default = _registered(name)
    tag = tag or (default.tag if default is not None else "") or ""
    is_joint = any(word in part for part in (architecture, tag) for word in JOINT_SPACE)
    return is_joint and not any(word in tag for word in FINE_TUNED)


def published_variant(name: str) -> Variant:
    """Return the variant that a name stands for, of timm's own weights.

    Raises:
        UsageError: the architecture has no such tag.
    """
    default = _registered(name)
    known = name if default is None else f"{name.partition('.')[0]}.{default.tag}"
    return Variant(name, keeps_head(name), f"timm's {known.rstrip('.')}")


def variant_of_file(name: str, state: Mapping[str, Any], path: Path) -> Variant:
    """Return the variant that a weights file is.

    Args:
        name: of the model; a tag in it decides.
        state: the file's tensors.
        path: of the file.

    Raises:
        UsageError: the tag is another variant's than the file's head.
    """
    architecture, _, tag = name.partition(".")
    outputs = head_outputs(state)
    tags = _classes_by_tag(architecture)
    joint = {one for one in tags if keeps_head(one)}
    beside = _config_beside(path, architecture)
    unusable = [key for key, value in beside.items() if not _is_usable(key, value)]
    if tag:
        _refuse_other_head(name, outputs, tags, joint, path)
        doubts = _ignored(name, beside, unusable) if unusable else _doubts(name, beside)
        return Variant(name, keeps_head(name), f"timm's {name}", doubts=doubts)
    keeps = outputs is not None and outputs in {tags[one] for one in joint}
    if outputs is None and tags and joint == tags.keys():
        keeps = True  # then the head is missing, and the weights are refused
    default = published_variant(name)
    same = [one for one in tags if (one in joint) == keeps]
    exact = [one for one in same if tags[one] == outputs] or same
    chosen = _default_first(exact, name)
    if beside and not unusable:
        source = f"{CONFIG} beside the weights"
        return Variant(chosen or name, keeps, source, overlay=beside)
    ignored = _ignored(chosen or name, beside, unusable) if unusable else ()
    if chosen is None:  # such as a classifier behind an encoder that has none published
        return replace(default, keeps_head=keeps, doubts=ignored)
    return Variant(chosen, keeps, f"timm's {chosen}", doubts=ignored + _ambiguities(chosen, exact))


def head_outputs(state: Mapping[str, Any]) -> int | None:
    """Return how many outputs the head of some weights has, None where they have none."""
    for name, side in HEADS.items():
        shape = getattr(state.get(name), "shape", ())
        if len(shape) == 2:
            return int(shape[side])
    return None


def _registered(name: str) -> Any:
    """Return what timm has registered of a variant; None of an architecture without any."""
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        architecture, _, tag = name.partition(".")
        tags = [
            one.partition(".")[2] for one in timm.list_models(f"{architecture}.*", pretrained=True)
        ]
        raise UsageError(
            "the model has no weights of this tag",
            where=f"--model {name}",
            expected=f"one of {some(tags)}" if tags else "no tag",
            found=repr(tag),
            hint=f"--model {architecture} without a tag, or see fungi models '{architecture}*'",
        ) from error


def _classes_by_tag(architecture: str) -> dict[str, int]:
    """Return the outputs of each published variant, timm's default first where it is one."""
    names = timm.list_models(f"{architecture}.*", pretrained=True)
    return {name: _registered(name).num_classes for name in names}


def _default_first(names: list[str], name: str) -> str | None:
    default = _registered(name)
    tagged = f"{name}.{default.tag}" if default is not None else ""
    return tagged if tagged in names else next(iter(names), None)


def _refuse_other_head(
    name: str, outputs: int | None, tags: Mapping[str, int], joint: set[str], path: Path
) -> None:
    """A classifier's tag would throw the projection of a CLIP file away."""
    matching = [one for one in joint if tags[one] == outputs]
    if matching and not keeps_head(name) and tags.get(name) != outputs:
        raise UsageError(
            "the file has a projection into CLIP's joint space, the tag's weights a classifier",
            where=f"--weights {path}",
            expected=f"a head of {tags.get(name, 'other')} outputs, as {name} has",
            found=f"a head of {outputs} outputs, as {some(sorted(matching))}",
            hint=f"--model {_default_first(sorted(matching), name)}, or without a tag",
        )


def _config_beside(path: Path, architecture: str) -> dict[str, Any]:
    """Return the transform that timm's config.json beside a file names, if it is for the model."""
    try:
        document = json.loads((path.parent / CONFIG).read_bytes())
        stored = document["pretrained_cfg"]
        if document["architecture"] != architecture or not isinstance(stored, dict):
            return {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # there is none, or another program's
    found = {key: stored[key] for key in TRANSFORM_FIELDS if stored.get(key) is not None}
    return {key: tuple(one) if isinstance(one, list) else one for key, one in found.items()}


def _is_usable(key: str, value: Any) -> bool:
    """Whether a field of a foreign file is of the kind that a transform takes."""
    if key in ("mean", "std"):
        is_triple = isinstance(value, tuple) and len(value) == 3
        return is_triple and all(_is_number(v) and (v > 0 or key == "mean") for v in value)
    if key == "crop_pct":
        return _is_number(value) and 0 < value <= MOST_CROP
    known = INTERPOLATIONS if key == "interpolation" else CROP_MODES
    return value in known


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _ignored(name: str, beside: Mapping[str, Any], unusable: list[str]) -> tuple[str, ...]:
    wrong = ", ".join(f"{key} {beside[key]}" for key in unusable)
    return (
        f"{CONFIG} beside the weights has an unusable {wrong}: it is ignored, the transform is "
        f"that of {name}",
    )


def _doubts(name: str, beside: Mapping[str, Any]) -> tuple[str, ...]:
    mine = _transform(name)
    other = [key for key, value in beside.items() if mine.get(key) != value]
    if not other:
        return ()
    return (
        f"the transform is that of {name}; {CONFIG} beside the weights has another "
        f"{', '.join(other)}",
    )


def _ambiguities(chosen: str, names: list[str]) -> tuple[str, ...]:
    mine = _transform(chosen)
    others = [one for one in names if _transform(one) != mine]
    if not others:
        return ()
    transforms = [_transform(other) for other in others]
    fields = [key for key in TRANSFORM_FIELDS if any(t[key] != mine[key] for t in transforms)]
    return (
        f"the file may be of any of {len(names)} variants, with different {', '.join(fields)}: the "
        f"transform is that of {chosen}; --model {chosen.partition('.')[0]}.TAG decides "
        f"({some([one.partition('.')[2] for one in names])})",
    )


def _transform(name: str) -> dict[str, Any]:
    config = _registered(name)
    return {key: getattr(config, key, None) for key in TRANSFORM_FIELDS}
