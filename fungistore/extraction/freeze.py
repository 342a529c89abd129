"""What is frozen before the first unit: configurations, heads, banks, and what they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fungistore.backbones.families import modality_of
from fungistore.backbones.word_head import carried_head
from fungistore.errors import MismatchError, UsageError
from fungistore.extraction.adapted import find_adaptation
from fungistore.extraction.bank_blocks import BankBlocks
from fungistore.extraction.banks import encode_bank, stand_in
from fungistore.extraction.borrowing import Banks, borrowed_banks, deciding, refuse_other_banks
from fungistore.extraction.features import FeatureMaker, GradientFeature
from fungistore.extraction.objective_tables import fingerprinted
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.extraction.support import Support
from fungistore.extraction.unit_layout import shards_in
from fungistore.extraction.versions import running_versions
from fungistore.fingerprint import Config, digest_array, fingerprint, flatten
from fungistore.gradients.projection import projections_of
from fungistore.machine.context import Context
from fungistore.modalities.views import FirstViews
from fungistore.objectives.objective import WORDS
from fungistore.randomness import Stream
from fungistore.store.backend import StorePlace
from fungistore.store.chunks import layout_config
from fungistore.store.feature import (
    EMBEDDINGS,
    OF_PATCHES,
    PATCHES,
    layer_name,
    name_of,
    objective_name,
)
from fungistore.store.listing import refuse_other_modality
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.mismatch import refuse_mismatch
from fungistore.store.setups import BANK, BANK_FILE, SEEN, SEEN_FILE, SEEN_IMAGES
from fungistore.store.store import Store

LARGEST_CHUNK_BYTES = 1 << 30
HEADS = "tensors"  # the file of the heads
NamedArrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Frozen:
    """What an objective's features depend on beside settings: drawn once, then read back."""

    heads: NamedArrays
    bank: NDArray[np.float32] | None


def settle(place: StorePlace, options: ExtractOptions, *, restart: bool) -> Resolved:
    """Decide everything for a store, and refuse settings that its feature set was not made with.

    Raises:
        UsageError: the options cannot be served.
        MismatchError: a field differs from the feature set's; nothing was changed.
    """
    store = Store.open(place) if Store.exists(place) and not restart else None
    if store:  # before a model is loaded in vain
        refuse_other_modality(store, modality_of(options.model))
    frozen = frozen_choices(store, options.name) if store else {}
    resolved = resolve(options, frozen, find_adaptation(options.adapter, place))
    _refuse_huge_chunks(resolved)
    configs = array_configs(resolved)
    if store and frozen:
        refuse_mismatch(store, options.name, by_array(resolved, configs))
    _refuse_unborrowable(resolved, store, configs)
    return resolved


def _refuse_unborrowable(
    resolved: Resolved, store: Store | None, configs: Mapping[str, Config]
) -> None:
    """Refuse a --bank-from that has no use, or that cannot be had, before anything is written."""
    options = resolved.options
    if options.bank_from is not None and not resolved.banks:
        raise UsageError(
            "none of the features is compared with a bank",
            where=f"--bank-from {options.bank_from}",
            expected="simclr, deepcluster, patches/simclr or a plug-in's objective that has one",
            found=", ".join(options.features),
        )
    borrowed = borrowed_banks(resolved, configs)
    if store is not None:
        refuse_other_banks(store, resolved, configs, borrowed)


def _refuse_huge_chunks(resolved: Resolved) -> None:
    """A unit of a vector-only feature set can be too long for patch tensors that come later."""
    for spec in resolved.arrays:
        chunk = (resolved.unit_rows or 0) // resolved.shard_units * spec.row_bytes
        if chunk > LARGEST_CHUNK_BYTES:
            raise UsageError(
                f"a chunk of {spec.asked} would have {chunk / 1e9:.1f} GB",
                where=f"feature set {resolved.options.name!r} with units of {resolved.unit_rows}",
                expected=f"at most {LARGEST_CHUNK_BYTES / 1e9:.1f} GB",
                hint=f"keep {spec.asked} in a set of their own with --feature-set, "
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
        shard_units=resolved.shard_units if resolved.unit_rows else shards_in(frozen),
        batch_is_open=False,
    )
    try:
        refuse_mismatch(store, resolved.options.name, by_array(resolved, array_configs(resolved)))
    except MismatchError:  # decided otherwise on a machine of another kind, unless it is refused
        return settle(store.backend, resolved.options, restart=False)
    return resolved


def array_configs(resolved: Resolved) -> dict[str, Config]:
    """Return, for each feature, the configuration that its fingerprint is made of.

    Every feature's has what it depends on and nothing else, so features can be added one by one.
    """
    options, backbone = resolved.options, resolved.backbone
    shared: Config = {
        "schema": SCHEMA_VERSION[0],
        "backbone": backbone.identity(),
        "compute": {
            "dtype": resolved.dtype_name,
            "batch_size": resolved.batch_size,
        }
        | ({"compiled": True} if resolved.compiled else {}),
        "layout": layout_config(resolved.unit_rows, resolved.shard_units, resolved.codec),
    }
    configs: dict[str, Config] = {}
    for feature in options.features:
        if feature == PATCHES:
            patches: Config = {"pool": options.pool}
            if resolved.exact_patches and resolved.dtype != torch.float32:
                patches["last_block"] = "float32"
            configs[feature] = shared | {"patches": patches}
            continue
        if feature.startswith(OF_PATCHES):
            configs[feature] = shared | {"tokens": {"pool": options.pool}}
        else:
            configs[feature] = shared | {"vectors": {"dtype": options.storage_dtype}}
        if feature != EMBEDDINGS:
            name, objective = objective_name(feature), cast(Any, resolved.objective(feature))
            configs[feature] |= _gradient_config(resolved, feature)
            configs[feature][name] = _plain(fingerprinted(objective))
            if recipe := resolved.views.get(name):
                configs[feature]["views"] = {"size": options.view_size}
                configs[feature][name]["view_sizes"] = [group.size for group in recipe.groups]
            which = objective.needs.word_head
            if which is not None and (head := carried_head(backbone, which)):
                configs[feature][name]["word_head"] = head.digest
    return configs


def _gradient_config(resolved: Resolved, feature: str) -> Config:
    """Return what decides a gradient beside its objective.

    Fields of one name must be equal over a feature set, so those of a further layer have its name.
    """
    layers, spec, layer = resolved.layers, resolved.projection(feature), layer_name(feature)
    shape: Config = {"columns": spec.columns, "first_block": spec.digest()}
    projection: Config = {"kind": spec.kind, "dim": spec.dim}
    gradient: Config = {
        "target_layer": layers.names[0],
        "seed": resolved.options.seed,
        "projection": projection if layer else projection | shape,
    }
    if layer or layers.cut != layers.names[0]:
        gradient["cut_at"] = layers.cut
    return {"gradient": gradient} | ({"layers": {layer: shape}} if layer else {})


def by_array(resolved: Resolved, configs: Mapping[str, Config]) -> dict[str, Config]:
    """Return the configuration of each array from those of the features."""
    return {spec.path: configs[spec.asked] for spec in resolved.arrays}


def freeze(
    resolved: Resolved,
    store: Store,
    configs: Mapping[str, Config],
    borrowed: Banks,
    context: Context,
) -> FeatureMaker:
    """Store every random thing before it is used, then read it back: resume reads the same.

    Args:
        resolved: the settled options.
        store: where setups are kept; one that is there already is used as it is.
        configs: the configuration of each feature.
        borrowed: banks of another store, by feature; the others are drawn.
        context: its reporter is told what happens, its stop asked while a bank is encoded.
    """
    refuse_other_banks(store, resolved, configs, borrowed)
    banks = dict(borrowed)
    for feature, config in configs.items():
        if store.setups.has(fingerprint(config)):
            continue
        name = objective_name(feature)
        if name in resolved.banks and name not in banks:
            banks[name] = _bank(resolved, store, name, configs, context)
        store.setups.freeze(config, *setup_parts(resolved, feature, banks.get(name)))
    for feature, config in configs.items():  # also of a run that was killed behind its last block
        if (name := objective_name(feature)) in resolved.banks:
            bank_blocks(store, config, name).remove()
    return frozen_features(
        resolved, store, {name: fingerprint(config) for name, config in configs.items()}
    )


def bank_blocks(store: Store, config: Config, objective: str) -> BankBlocks:
    """Return what is kept of a bank that is being made, of whichever target layer."""
    decides = deciding(config, objective) | {"compute": config["compute"]}
    return BankBlocks(store.setups.folder(fingerprint(decides)))


def _bank(
    resolved: Resolved,
    store: Store,
    objective: str,
    configs: Mapping[str, Config],
    context: Context,
) -> NDArray[np.float32]:
    """Return an objective's bank: that of its features of other layers, or a new one."""
    keys = {name_of(p): a.fingerprint for p, a in store.arrays(resolved.options.name).items()}
    keys |= {feature: fingerprint(config) for feature, config in configs.items()}
    for feature, key in keys.items():
        if objective_name(feature) == objective and store.setups.has(key):
            return store.setups.bank(key, resolved.banks[objective].name)
    config = next(one for name, one in configs.items() if objective_name(name) == objective)
    maker, kept = bank_features(resolved, objective), bank_blocks(store, config, objective)
    return encode_bank(resolved, store.samples, objective, maker, context, kept)


def setup_parts(
    resolved: Resolved, feature: str, bank: NDArray[np.float32] | None
) -> tuple[dict[str, NamedArrays], dict[str, Config]]:
    """Return what a feature's setup has beside its configuration: tensors, and documents."""
    tensors: dict[str, NamedArrays] = {}
    banks: dict[str, str] = {}
    if feature in resolved.gradient_features:
        tensors[HEADS] = head_tensors(resolved, objective_name(feature))
    if bank is not None:
        name = resolved.banks[objective_name(feature)].name
        tensors[BANK_FILE + name] = {BANK: bank}
        banks[name] = digest_array(bank)
    if resolved.adaptation is not None:
        seen = resolved.adaptation
        tensors[SEEN_FILE] = {SEEN: seen.seen, SEEN_IMAGES: seen.images}
    made = {"versions": running_versions(), "banks": banks}
    return tensors, {"options": resolved.to_options().to_config(), "made": made}


def frozen_features(
    resolved: Resolved, store: Store, fingerprints: Mapping[str, str]
) -> FeatureMaker:
    """Build the feature maker from what was frozen in setups, by feature.

    Raises:
        StoreError: a setup is missing or damaged.
    """
    found = {}
    for feature in resolved.gradient_features:
        key, name = fingerprints[feature], objective_name(feature)
        bank = None
        if name in resolved.banks:
            bank = store.setups.bank(key, resolved.banks[name].name)
        found[name] = Frozen(store.setups.tensors(key, HEADS), bank)
    return make_features(resolved, found)


def bank_features(resolved: Resolved, feature: str) -> FeatureMaker:
    """Return what makes the latents of a bank, of the views alone that it is made of."""
    views, count = dict(resolved.views), resolved.banks[feature].views
    if count is not None and feature in views:
        views[feature] = FirstViews(views[feature], count)
    heads = head_tensors(resolved, feature)
    return make_features(replace(resolved, views=views), {feature: Frozen(heads, None)})


def throwaway_features(resolved: Resolved) -> FeatureMaker:
    """Return a feature maker with noise for banks: it costs what the real one will cost."""
    return make_features(
        resolved,
        {
            name: Frozen(
                head_tensors(resolved, name),
                stand_in(resolved, name) if name in resolved.banks else None,
            )
            for name in resolved.gradient_objectives
        },
    )


def make_features(resolved: Resolved, frozen: Mapping[str, Frozen]) -> FeatureMaker:
    """Build the feature maker from the frozen tensors of its objectives."""
    options, device = resolved.options, resolved.device
    gradients = {}
    for name, found in frozen.items():
        objective = resolved.objective(name)
        needs = objective.needs
        heads = {
            head: _linear(found.heads[f"{head}.weight"], found.heads[f"{head}.bias"], device)
            for head in (*needs.heads, *needs.token_heads)
        }
        which = needs.word_head
        if which is not None and (head := carried_head(resolved.backbone, which)):
            heads[WORDS] = head.to(device)
        bank = None if found.bank is None else torch.from_numpy(found.bank).to(device)
        support = None
        if bank is not None and needs.neighbors is not None:
            support = Support(bank, needs.neighbors, options.seed)
        recipe = resolved.views.get(name)
        gradients[name] = GradientFeature(objective, recipe, heads, bank, support)
    dtype = torch.bfloat16 if resolved.dtype == torch.bfloat16 else torch.float32
    projections = projections_of(
        resolved.projections,
        dtype=dtype,
        device=device,
        cache_bytes=int(options.projection_memory * 2**30),
    )
    return FeatureMaker(
        resolved.backbone,
        resolved.path,
        projections[0] if gradients else None,
        gradients,
        pool=options.pool,
        batch_size=resolved.batch_size,
        seed=options.seed,
        device=device,
        further=dict(zip(resolved.layers.further, projections[1:], strict=True)),
        token_path=resolved.token_path,
        exact_patches=resolved.exact_patches,
        tf32=resolved.dtype != torch.float32,
        rescues=options.on_error == "truncated",
    )


def head_tensors(resolved: Resolved, objective: str) -> NamedArrays:
    """Draw heads: U(-1/sqrt(width), 1/sqrt(width)), PyTorch's default for a linear layer."""
    needs, backbone = resolved.objective(objective).needs, resolved.backbone
    heads = [(name, backbone.embedding_dim, dim) for name, dim in needs.heads.items()]
    heads += [(name, backbone.token_dim, dim) for name, dim in needs.token_heads.items()]
    tensors: NamedArrays = {}
    for name, width, dim in heads:
        bound = width**-0.5
        stream = Stream(resolved.options.seed, "head", objective, name)
        tensors[f"{name}.weight"] = (stream.uniform(dim, width) * 2 - 1) * bound
        tensors[f"{name}.bias"] = (stream.uniform(dim) * 2 - 1) * bound
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def _linear(weight: NDArray[Any], bias: NDArray[Any], device: torch.device) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    return layer.to(device)


def _plain(value: Any) -> Any:
    """Return tuples as lists, so that a configuration equals itself after a trip through JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
