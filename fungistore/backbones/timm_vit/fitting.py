"""Puts stored weights into a timm model: under timm's names, at the model's grid, strictly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
from timm.models import vision_transformer
from torch import Tensor

from fungistore.errors import UsageError
from fungistore.quantities import counted

Convert = Callable[..., dict[str, Tensor]]  # of stored tensors by name, for a model

CLASSIFIERS = ("head", "fc", "head_dist")
MASK_TOKEN = "mask_token"  # which no model of timm's has a place for; see `masking`
COUNTER = ".num_batches_tracked"  # of batch norms; nothing that is computed here depends on it
NAMES_SHOWN = 4
OWN_SIZE_ONLY = "the model takes images of its own size only"
OWN_SIZE_HINT = "leave out --image-size and use --view-size model"
# Conversions make one tensor of several of these, or resample them: that is no loss.
RESHAPED = ("pos", "patch", "token", "class_embedding", "rope", "freqs", "relative")


@dataclass(frozen=True)
class Fitted:
    """What became of stored weights.

    Attributes:
        used: those that the model has, or may have been made from, by their stored names.
        left_out: names of heads and projections that the model has no place for.
    """

    used: Mapping[str, Any]
    left_out: tuple[str, ...]


def fit_weights(
    model: Any,
    state: Mapping[str, Any],
    architecture: str,
    *,
    where: object,
    extra_is_error: bool,
    own_size: Any = None,
) -> Fitted:
    """Load stored weights into a model, in place, as timm itself would.

    Names of other projects are translated, and position embeddings are resampled to the model's
    grid. A classifier that the model lacks is left out; all else must match.

    Args:
        model: timm's.
        state: what was stored.
        architecture: timm's name of the model, without a tag.
        where: the file, for errors.
        extra_is_error: refuse tensors that the model has no place for; else they are left out.
        own_size: the model for images of its own size, where this one is for another.

    Raises:
        UsageError: they do not match.
    """
    try:
        with redirect_stdout(sys.stderr):  # one of timm's conversions prints
            converted = conversion_of(architecture)(dict(state), model)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            "the weights file has tensors of unexpected names or shapes",
            where=where,
            expected=f"the weights of a {type(model).__name__}",
            found=f"{type(error).__name__}: {error}",
        ) from error
    expected = model.state_dict()
    extra = converted.keys() - expected.keys()
    dropped = {name for name in extra if not extra_is_error or _is_classifier(model, name)}
    counters = {name for name in expected if name.endswith(COUNTER)}  # older files have none
    converted = {name: expected[name] for name in counters} | converted
    missing = sorted(expected.keys() - converted.keys())
    misshapen = [
        f"{key} {tuple(converted[key].shape)} for {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & converted.keys())
        if converted[key].shape != expected[key].shape
    ]
    unexpected = sorted(extra - dropped - {MASK_TOKEN})
    if own_size is not None and misshapen and not missing and not unexpected:
        own = own_size.state_dict()
        if all(converted[key].shape == own[key].shape for key in expected.keys() & own.keys()):
            raise UsageError(
                OWN_SIZE_ONLY,
                where=where,
                found=f"for another size it needs other weights ({some(misshapen)})",
                hint=OWN_SIZE_HINT,
            )
    refuse_misfit(model, missing, unexpected, misshapen, where)
    model.load_state_dict({name: converted[name] for name in expected}, strict=True)
    used = {name: value for name, value in state.items() if name not in dropped}
    return Fitted(used, tuple(sorted(dropped | _lost(state, converted))))


def refuse_misfit(
    model: Any, missing: list[str], unexpected: list[str], misshapen: list[str], where: object
) -> None:
    """Raise UsageError where some weights are not those of a model; the lists name tensors."""
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(found.values()):
        raise UsageError(
            "the weights do not fit the model",
            where=where,
            expected=f"the {counted(len(model.state_dict()), 'tensor')} of {type(model).__name__}",
            found="; ".join(
                f"{len(keys)} {what} ({some(keys)})" for what, keys in found.items() if keys
            ),
            hint="check that --model names the architecture these weights were trained for",
        )


def conversion_of(architecture: str) -> Convert:
    """Return timm's own translation of other projects' weights, as its builders choose it.

    Some families were trained with another interpolation of their position embeddings.
    """
    module = sys.modules[timm.model_entrypoint(architecture).__module__]
    convert: Convert | None = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return lambda state, model: state
    if module.__name__.endswith(".deit"):
        return partial(convert, adapt_layer_scale=True)
    if module is vision_transformer and "flexi" in architecture:
        return partial(convert, interpolation="bilinear", antialias=False)
    if module is vision_transformer and "radio" in architecture:
        corners = any(name in architecture for name in vision_transformer._RADIO_ALIGN_CORNERS)
        return partial(convert, interpolation="bilinear", antialias=False, align_corners=corners)
    return convert


def some(names: list[str] | tuple[str, ...]) -> str:
    """Return the first of some names."""
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown + (", ..." if len(names) > NAMES_SHOWN else "")


def _is_classifier(model: Any, name: str) -> bool:
    """Whether a name is of a classifier: a usual one, timm's for the model, or an emptied head."""
    named = model.pretrained_cfg.get("classifier") or ()
    layers = (named,) if isinstance(named, str) else tuple(named)
    if name.rpartition(".")[0] in (*CLASSIFIERS, *layers):
        return True
    head = name.partition(".")[0]
    is_parent = any(layer.startswith(f"{head}.") for layer in layers)
    return is_parent and not any(key.startswith(f"{head}.") for key in model.state_dict())


def _lost(state: Mapping[str, Any], converted: Mapping[str, Tensor]) -> set[str]:
    """Return the names of heads and projections that a translation has passed over.

    A tensor that it kept shares its memory. Of the blocks nothing is lost unnoticed, since the
    model asks for all of theirs; text towers are no part of the model.
    """
    kept = {tensor.untyped_storage().data_ptr() for tensor in converted.values()}
    return {
        name
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
        and tensor.untyped_storage().data_ptr() not in kept
        and any(word in name for word in ("head", "proj", "pool", "pre_logits", "fc_norm"))
        and not any(word in name for word in (*RESHAPED, "blocks.", "layers.", "text", "mlp", "q_"))
    }
