"""What is frozen before the first unit: configurations, heads, negatives, and what they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fungistore.errors import FungiError, MismatchError, UsageError
from fungistore.extraction.features import FeatureMaker, GradientFeature
from fungistore.extraction.loader import Work, load_batches
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.fingerprint import Config, fingerprint, flatten
from fungistore.gradients.projection import Projection
from fungistore.machine.context import Context
from fungistore.randomness import Stream
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.store import Store

TRANSFORM_FIELDS = ("interpolation", "crop_pct", "crop_mode", "mean", "std")
LARGEST_CHUNK_BYTES = 1 << 30
Tensors = dict[str, NDArray[Any]]


def settle(path: Path, options: ExtractOptions, *, restart: bool) -> Resolved:
    """Decide everything for a store, and refuse settings that its feature set was not made with.

    Raises:
        UsageError: the options cannot be served.
        MismatchError: a field differs from the feature set's; nothing was changed.
    """
    store = Store.open(path) if Store.exists(path) and not restart else None
    frozen = frozen_choices(store, options.name) if store else {}
    resolved = resolve(options, frozen)
    _refuse_huge_chunks(resolved)
    if store and frozen:
        store.refuse_mismatch(options.name, by_array(resolved, array_configs(resolved)))
    return resolved


def _refuse_huge_chunks(resolved: Resolved) -> None:
    """A unit of a vector-only feature set can be too long for patch tensors that come later."""
    for spec in resolved.arrays:
        chunk = (resolved.unit_rows or 0) * spec.row_bytes
        if chunk > LARGEST_CHUNK_BYTES:
            raise UsageError(
                f"a chunk of {spec.feature} would have {chunk / 1e9:.1f} GB",
                where=f"feature set {resolved.options.name!r} of {resolved.unit_rows} rows a unit",
                expected=f"at most {LARGEST_CHUNK_BYTES / 1e9:.1f} GB",
                hint=f"keep {spec.feature} in a set of their own with --feature-set, "
                "or give a smaller --unit-rows",
            )


def frozen_choices(store: Store, feature_set: str) -> Config:
    """Return the flattened configuration of all arrays of a feature set, {} where it is new."""
    choices: Config = {}
    for array in store.arrays(feature_set).values():
        choices |= flatten(store.setups.config(array.fingerprint))
    return choices


def as_frozen(resolved: Resolved, store: Store) -> Resolved:
    """Return settings with the decisions that another worker froze since they were settled.

    Raises:
        MismatchError: a field that is not left open differs from the feature set's.
    """
    frozen = frozen_choices(store, resolved.options.name)
    if not frozen:
        return resolved
    resolved = replace(
        resolved,
        unit_rows=resolved.unit_rows or frozen.get("layout.unit_rows"),
        batch_is_open=False,
    )
    try:
        store.refuse_mismatch(resolved.options.name, by_array(resolved, array_configs(resolved)))
    except MismatchError:  # decided otherwise on a machine of another kind, unless it is refused
        return settle(store.root, resolved.options, restart=False)
    return resolved


def array_configs(resolved: Resolved) -> dict[str, Config]:
    """Return, for each feature, the configuration that its fingerprint is made of.

    Every feature's has what it depends on and nothing else, so features can be added one by one.
    """
    options, backbone = resolved.options, resolved.backbone
    shared: Config = {
        "schema": SCHEMA_VERSION[0],
        "backbone": {
            "model": backbone.name,
            "weights": backbone.weights_hash,
            "image_size": backbone.image_size,
            "pooling": backbone.pooling,
            "transform": {key: _plain(backbone.data_config[key]) for key in TRANSFORM_FIELDS},
        },
        "compute": {
            "dtype": resolved.dtype_name,
            "batch_size": resolved.batch_size,
        }
        | ({"compiled": True} if resolved.compiled else {}),
        "layout": {"unit_rows": resolved.unit_rows, "codec": resolved.codec},
    }
    gradient = {
        "target_layer": backbone.target_layer,
        "seed": options.seed,
        "projection": {
            "kind": resolved.projection.kind,
            "dim": resolved.projection.dim,
            "columns": resolved.projection.columns,
            "first_block": resolved.projection.digest(),
        },
    }
    configs: dict[str, Config] = {}
    for feature in options.features:
        if feature == "patches":
            configs[feature] = shared | {"patches": {"pool": options.pool}}
            continue
        configs[feature] = shared | {"vectors": {"dtype": options.storage_dtype}}
        if feature != "embeddings":
            objective: Any = resolved.objective(feature)
            configs[feature] |= {"gradient": gradient, feature: _plain(asdict(objective))}
            if recipe := resolved.views(feature):
                configs[feature]["views"] = {"size": options.view_size}
                configs[feature][feature]["view_pixels"] = [group.size for group in recipe.groups]
    return configs


def by_array(resolved: Resolved, configs: Mapping[str, Config]) -> dict[str, Config]:
    """Return the configuration of each array from those of the features."""
    return {spec.name: configs[spec.feature] for spec in resolved.arrays}


def freeze(
    resolved: Resolved,
    store: Store,
    configs: Mapping[str, Config],
    context: Context,
) -> FeatureMaker:
    """Store every random thing before it is used, then read it back: resume reads the same.

    Args:
        resolved: the settled options.
        store: where setups are kept; one that is there already is used as it is.
        configs: the configuration of each feature.
        context: its reporter is told what happens, its stop asked between batches of negatives.
    """
    gradients = resolved.gradient_features
    for feature, config in configs.items():
        if store.setups.has(fingerprint(config)):
            continue
        tensors: Tensors = {}
        if feature in gradients:
            tensors |= head_tensors(resolved, feature)
        if resolved.negative_images.get(feature):
            tensors["negatives"] = encode_negatives(resolved, store, feature, tensors, context)
        document = {"options": resolved.to_options().to_config()}
        store.setups.freeze(config, {"tensors": tensors} if tensors else {}, document)
    frozen = {f: store.setups.tensors(fingerprint(configs[f]), "tensors") for f in gradients}
    return make_features(resolved, frozen)


def throwaway_features(resolved: Resolved) -> FeatureMaker:
    """Return a feature maker with zeros for negatives: it costs what the real one will cost."""
    tensors: dict[str, Tensors] = {
        feature: dict(head_tensors(resolved, feature)) for feature in resolved.gradient_features
    }
    for feature, images in resolved.negative_images.items():
        (width,) = resolved.objective(feature).head_widths().values()
        tensors[feature]["negatives"] = np.zeros((images, width), np.float32)
    return make_features(resolved, tensors)


def make_features(resolved: Resolved, tensors: Mapping[str, Tensors]) -> FeatureMaker:
    """Build the feature maker from the frozen tensors of its gradient features."""
    options, backbone = resolved.options, resolved.backbone
    gradients = {}
    for feature, frozen in tensors.items():
        objective = resolved.objective(feature)
        recipe = resolved.views(feature)
        heads = {
            name: _linear(frozen[f"{name}.weight"], frozen[f"{name}.bias"], resolved.device)
            for name in objective.head_widths()
        }
        negatives = frozen.get("negatives")
        gradients[feature] = GradientFeature(
            objective,
            recipe.on(resolved.device) if recipe else None,
            heads,
            None if negatives is None else torch.from_numpy(negatives).to(resolved.device),
        )
    dtype = torch.bfloat16 if resolved.dtype == torch.bfloat16 else torch.float32
    projection = Projection(
        resolved.projection,
        dtype=dtype,
        device=resolved.device,
        cache_bytes=int(options.projection_memory * 2**30),
    )
    return FeatureMaker(
        backbone,
        resolved.path,
        projection if gradients else None,
        gradients,
        pool=options.pool,
        batch_size=resolved.batch_size,
        seed=options.seed,
        device=resolved.device,
        tf32=resolved.dtype != torch.float32,
    )


def head_tensors(resolved: Resolved, feature: str) -> Tensors:
    """Draw an objective's heads: U(-1/sqrt(E), 1/sqrt(E)), PyTorch's default for a linear layer."""
    width = resolved.backbone.embedding_dim
    bound = width**-0.5
    tensors: Tensors = {}
    for name, dim in resolved.objective(feature).head_widths().items():
        stream = Stream(resolved.options.seed, "head", feature, name)
        tensors[f"{name}.weight"] = (stream.uniform(dim, width) * 2 - 1) * bound
        tensors[f"{name}.bias"] = (stream.uniform(dim) * 2 - 1) * bound
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def encode_negatives(
    resolved: Resolved,
    store: Store,
    feature: str,
    heads: Tensors,
    context: Context,
) -> NDArray[np.float32]:
    """Encode views of random images of the train split (of all images, where there is none).

    Returns:
        Latents [images * views, d], not normalised. Unreadable images are replaced by others.

    Raises:
        FungiError: none of the images could be read.
    """
    wanted = resolved.negative_images[feature]
    candidates = store.samples.rows_of_split("train")
    if len(candidates) < wanted:
        context.reporter.notice(
            f"{feature}: {len(candidates)} images to take negatives from, {wanted} asked for"
        )
        wanted = len(candidates)
    stream = Stream(resolved.options.seed, "negatives", feature)
    order = candidates[stream.choice(len(candidates), min(len(candidates), 2 * wanted))]
    maker = make_features(resolved, {feature: heads})
    rows, size = store.samples.take(order), resolved.batch_size

    def works() -> Iterator[Work]:
        for start in range(0, len(rows), size):
            yield Work(0, rows[start : start + size], frozenset([feature]), last=False)

    def latents() -> Iterator[NDArray[np.float32]]:
        for batch in load_batches(works(), maker, resolved.workers):
            context.stop_if_asked()
            failed = {failure.row for failure in batch.failures}
            encoded = maker.latents(batch.drawn, feature)
            for row, views in zip(batch.work.rows, encoded, strict=True):
                if row["row"] not in failed:
                    context.reporter.advance(1)
                    yield views

    context.reporter.begin(f"{feature} negatives", wanted)
    found = list(islice(latents(), wanted))
    context.reporter.end()
    if not found:
        raise FungiError(
            "no image could be read to take negatives from", where=f"{len(order)} images tried"
        )
    return np.concatenate(found)


def _linear(weight: NDArray[Any], bias: NDArray[Any], device: torch.device) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    return layer.to(device)


def _plain(value: Any) -> Any:
    """Return tuples as lists, so that a configuration equals itself after a trip through JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
