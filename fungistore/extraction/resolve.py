"""Decides what the options leave open: the backbone, device, precision, batch size, projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from fungistore.backbones.adapters.adaptation import Adaptation
from fungistore.backbones.encoder import Encoder, remarks_of
from fungistore.backbones.families import load_backbone, modality_of, refuse_untrusted
from fungistore.backbones.transforms import dense_size, sees_whole, with_transform
from fungistore.choices import Codec
from fungistore.errors import UsageError
from fungistore.extraction.arrays import arrays_of
from fungistore.extraction.deciding import with_decided
from fungistore.extraction.loader import default_workers
from fungistore.extraction.offered import layers_asked
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.refusals import (
    refuse_gradients_of_nothing,
    refuse_placeless,
    refuse_uneven_cells,
    refuse_unlike,
)
from fungistore.extraction.target_layers import TargetLayers, target_layers
from fungistore.extraction.unit_layout import asked_units
from fungistore.fingerprint import Config, fingerprint
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path, token_path
from fungistore.gradients.projection import ProjectionSpec
from fungistore.gradients.tape import GradientPath
from fungistore.machine.device import default_batch_size, fast_dtype, refuse_unfit, resolve_device
from fungistore.modalities.image.recipes import TakesPixels
from fungistore.modalities.modality import Modality, find_modality
from fungistore.modalities.views import Measured, ViewRecipe
from fungistore.objectives.needs import refuse_odd_needs
from fungistore.objectives.objective import BankSpec, Objective
from fungistore.objectives.views import recipe_of
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Source
from fungistore.sources.torch_dataset import DatasetSource, is_dataset
from fungistore.store.feature import (
    EMBEDDINGS,
    OF_PATCHES,
    PATCHES,
    Feature,
    objective_name,
)
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

USUAL_SIZE = 224  # pixels a side, of most published models
OF_ALL_LENGTHS = 1024  # samples whose lengths differ
SELDOM_LONG = 8  # times longer than usual ones these may be
MUCH_MORE = 1.5  # times the tokens: what is worth a word

SourcePlace = str | Path | Sequence[str | Path] | Source


@dataclass(frozen=True)
class Resolved:
    """Options after every "auto" has been decided, but for what is measured.

    `views` are those of the objectives that have their own; each of the `layers` has its own of the
    `projections`. `token_path` is for objectives that read tokens, if any do; `exact_patches` says
    that patch tensors come from it too. `unit_rows` is None until a rate is measured; a batch that
    is open is halved until it fits. `choices` are what was chosen for gradients of tokens, in
    words.
    """

    options: ExtractOptions
    backbone: Encoder
    layers: TargetLayers
    path: GradientPath
    token_path: LayerPath | None
    exact_patches: bool
    views: Mapping[str, ViewRecipe]
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    batch_size: int
    batch_is_open: bool
    workers: int
    codec: Codec
    unit_rows: int | None
    shard_units: int
    projections: tuple[ProjectionSpec, ...]
    choices: tuple[str, ...] = ()
    adaptation: Adaptation | None = None

    def create_array(self, store: Store, spec: Feature, rows: int, config: Config) -> UnitArray:
        """Create the array of a feature in the feature set, of the unit size that was decided."""
        assert self.unit_rows is not None  # with_unit_rows has decided it
        return store.create_array(
            self.options.name,
            spec,
            rows=rows,
            unit_rows=self.unit_rows,
            shard_units=self.shard_units,
            codec=self.codec,
            fingerprint=fingerprint(config),
        )

    @property
    def modality(self) -> Modality:
        """What the model takes."""
        return find_modality(self.backbone.modality)

    @property
    def arrays(self) -> list[Feature]:
        """The arrays that the features make."""
        tells_lengths = isinstance(self.backbone.base_view, Measured)
        return arrays_of(
            self.options, self.backbone, self.gradient_dim, tells_lengths=tells_lengths
        )

    def objective(self, feature: str) -> Objective:
        """Return the objective of a gradient feature."""
        objective: Objective = self.options.objectives[objective_name(feature)]
        return objective

    def projection(self, feature: str) -> ProjectionSpec:
        """Return the projection of a gradient feature: that of its target layer."""
        return self.projections[self.layers.place(feature)]

    @property
    def gradient_dim(self) -> int:
        """Width of every gradient feature."""
        return self.projections[0].dim

    @property
    def dtype_name(self) -> Any:
        """Name of the trunk's precision, as `--dtype` takes it."""
        return str(self.dtype).removeprefix("torch.")

    def to_options(self) -> ExtractOptions:
        """Return options that name every decision, so that another machine repeats them.

        A borrowed bank is frozen beside them: its store may be gone when they are read.
        """
        return replace(
            self.options,
            dtype=self.dtype_name,
            compile=self.compiled,
            batch_size=self.batch_size,
            codec=self.codec,
            unit_rows=None if self.unit_rows is None else self.unit_rows // self.shard_units,
            shard_units=self.shard_units if self.shard_units > 1 else None,
            projection_dim=self.gradient_dim,
            target_layer=next(iter(self.layers.names), None),
            bank_from=None,
            trust_code=False,
            limit=None,
            workers=None,
            decode_in="auto",
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the encoder has to say, and what its own size costs where nobody has chosen it."""
        size = () if self.options.image_size is not None else size_remarks(self.backbone)
        adapted = () if self.adaptation is None else self.adaptation.remarks
        views = [said for recipe in self.views.values() for said in remarks_of(recipe)]
        return (*remarks_of(self.backbone), *adapted, *size, *views, *self.choices)

    @property
    def gradient_features(self) -> list[str]:
        """The features that are gradients."""
        return gradient_features(self.options)

    @property
    def gradient_objectives(self) -> list[str]:
        """Their objectives, each once."""
        return list(dict.fromkeys(map(objective_name, self.gradient_features)))

    @property
    def banks(self) -> dict[str, BankSpec]:
        """The banks that gradient features need, by objective."""
        banks = {name: self.objective(name).needs.bank for name in self.gradient_objectives}
        return {name: bank for name, bank in banks.items() if bank is not None}


def resolve(
    options: ExtractOptions, frozen: Config, adaptation: Adaptation | None = None
) -> Resolved:
    """Load the backbone and decide what the options leave open.

    Args:
        options: what the user asked for.
        frozen: flattened configuration of the feature set, {} where it is new; its decisions stay.
        adaptation: that `options.adapter` means.

    Raises:
        UsageError: options that this backbone or this machine cannot serve.
    """
    device = resolve_device(options.device)
    name: str = options.dtype
    if name == "auto":
        name = frozen.get("compute.dtype") or fast_dtype(device)
    dtype: torch.dtype = getattr(torch, name)
    refuse_unfit(dtype, device)
    refuse_untrusted(options.model, trusted=options.trust_code)
    per_token = [name for name in gradient_features(options) if name.startswith(OF_PATCHES)]
    options, backbone, layers, choices = _loaded(options, adaptation, frozen, dense=bool(per_token))
    if sees_whole(backbone, options.crop, frozen, dense=bool(per_token)):
        options = replace(options, crop="whole")
    backbone = with_transform(backbone, options.crop, options.normalization)
    if PATCHES in options.features or per_token:
        refuse_placeless(backbone)
    refuse_unlike(backbone, per_token)
    refuse_uneven_cells(backbone, options.pool)
    refuse_gradients_of_nothing(backbone, gradient_features(options))
    asked = dict.fromkeys(map(objective_name, gradient_features(options)))
    options, decisions = with_decided(options, asked, backbone)
    backbone.module.to(device)
    usual = bool(frozen.get("compute.compiled"))
    compiled = usual if options.compile is None else options.compile
    path = gradient_path(backbone, dtype, compiled=compiled, layers=layers.names)
    objectives = {name: options.objectives[name] for name in asked}
    for name, objective in objectives.items():
        refuse_odd_needs(name, objective.needs)
    reads_tokens = any(objective.needs.tokens for objective in objectives.values())
    views = {
        name: recipe_of(objective, backbone, options.view_size)
        for name, objective in objectives.items()
    }
    exact = PATCHES in options.features and _are_exact(frozen, dtype, gradients=bool(per_token))
    dim = options.projection_dim or backbone.token_dim
    batch_size = options.batch_size or frozen.get("compute.batch_size")
    unit_rows, shard_units = asked_units(options, frozen)
    return Resolved(
        options=options,
        backbone=backbone,
        layers=layers,
        path=path,
        token_path=token_path(backbone, path, layers.names) if reads_tokens or exact else None,
        exact_patches=exact,
        views={name: recipe.on(device) for name, recipe in views.items() if recipe is not None},
        device=device,
        dtype=dtype,
        compiled=compiled,
        batch_size=batch_size or _usual_batch(backbone, options, device),
        batch_is_open=batch_size is None and device.type == "cuda",
        workers=options.workers or default_workers(device.type),
        codec=options.codec or frozen.get("layout.codec") or "none",
        unit_rows=unit_rows,
        shard_units=shard_units,
        projections=tuple(
            ProjectionSpec(options.projection, dim, out * width, options.seed, width)
            for out, width in path.gradient_shapes
        ),
        choices=(*choices, *decisions),
        adaptation=adaptation,
    )


def _loaded(
    options: ExtractOptions, adaptation: Adaptation | None, frozen: Config, *, dense: bool
) -> tuple[ExtractOptions, Encoder, TargetLayers, tuple[str, ...]]:
    """Load the backbone, cut at the target layer that runs first.

    For gradients of tokens it is of a size that suits them, if it takes that.
    """
    sized, choices = _dense_choices(options, frozen) if dense else (options, ())
    own_settings = options.of_the_family | ({"adapter": adaptation} if adaptation else {})

    def load(image_size: int | None, target_layer: str | None) -> Encoder:
        return load_backbone(
            options.model,
            weights=Path(options.weights) if options.weights else None,
            image_size=image_size,
            target_layer=target_layer,
            view_size=options.view_size,
            own_settings=own_settings,
        )

    first = next(iter(layers_asked(options.target_layer)), None)
    try:
        encoder = load(sized.image_size, first)
    except UsageError:  # nobody may have asked for that size; of its own it may load
        if not choices:
            raise
        sized, choices = options, ()
        encoder = load(None, first)
    layers = target_layers(encoder, sized.features, frozen)
    if layers.cut != encoder.target_layer:
        encoder = load(sized.image_size, layers.cut)
    return sized, encoder, layers, choices


def _dense_choices(
    options: ExtractOptions, frozen: Config
) -> tuple[ExtractOptions, tuple[str, ...]]:
    """Return options with a size for gradients of tokens, where nobody has chosen one."""
    if options.image_size is not None:
        return options, ()
    if known := frozen.get("backbone.image_size"):
        return replace(options, image_size=known), ()
    size = dense_size(options.model)
    if size is None:
        return options, ()
    said = f"--image-size {size}: the usual size of dense features, a multiple of the patch"
    return replace(options, image_size=size), (said,)


def size_remarks(encoder: Encoder) -> tuple[str, ...]:
    """Return what an encoder's own size costs, where it is far larger than images usually are."""
    if not isinstance(encoder, TakesPixels):
        return ()
    side, usual = encoder.image_size, USUAL_SIZE // encoder.patch_size * encoder.patch_size
    cells = usual // encoder.patch_size
    times = prod(encoder.token_shape) / cells**2 if cells else 0.0
    if times < MUCH_MORE:
        return ()
    return (
        f"images of {side} x {side} pixels, the model's own size: {times:.1f} times the tokens of "
        f"{usual} x {usual}, and about as many times the work; --image-size {usual} is the "
        "quicker choice",
    )


def opened_source(source: SourcePlace, model: str) -> Source:
    """Return the source that a path, or a list of them, names; of a dataset; a Source as it is."""
    if is_dataset(source) and not hasattr(source, "label_names"):
        return DatasetSource(source)
    if isinstance(source, str | Path | Sequence) or not hasattr(source, "label_names"):
        listed: Any = source  # also an array, or a column of a data frame
        return open_source(listed, modality=modality_of(model))
    return source


def gradient_features(options: ExtractOptions) -> list[str]:
    """Return the features that are gradients."""
    return [name for name in options.features if name not in (EMBEDDINGS, PATCHES)]


def _usual_batch(backbone: Encoder, options: ExtractOptions, device: torch.device) -> int:
    """Return how many samples are computed together where nobody says.

    Those of one length fill a CPU's forwards, and what fills up the last forward of each length is
    thrown away: the more samples there are, the less of it. Their tokens would fill the memory.
    """
    longest = prod(backbone.token_shape)
    if not backbone.lengths_differ:
        return default_batch_size(device, longest)
    if device.type == "cpu" and PATCHES not in options.features:
        return OF_ALL_LENGTHS
    return default_batch_size(device, max(1, longest // SELDOM_LONG))


def _are_exact(frozen: Config, dtype: torch.dtype, *, gradients: bool) -> bool:
    """Whether patch tensors are to come from the last block in float32, as their gradients do.

    Those of a feature set that has some already stay as they are, asked for beside gradients or
    not; where all is float32, they are the same.
    """
    if "patches.pool" in frozen and dtype != torch.float32:
        return frozen.get("patches.last_block") == "float32"
    return gradients
