"""What is stored of each image: from a model's outline, without a weight, or from a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from statistics import fmean
from typing import TYPE_CHECKING

from fungistore.backbones.families import TIMM, split_model
from fungistore.backbones.transforms import dense_size
from fungistore.choices import Codec
from fungistore.errors import UsageError
from fungistore.extraction.arrays import arrays_of
from fungistore.extraction.freeze import frozen_choices
from fungistore.extraction.offered import usual_features
from fungistore.extraction.options import ExtractOptions
from fungistore.fingerprint import Config
from fungistore.modalities.image.patchify import Patchify
from fungistore.modalities.requests import Windows
from fungistore.objectives.objective import Needs
from fungistore.planning.options import PlanOptions
from fungistore.store.feature import (
    EMBEDDINGS,
    OF_PATCHES,
    PATCHES,
    Feature,
    is_derived,
    objective_name,
    vectors_of,
)
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

if TYPE_CHECKING:  # it imports timm, which a plan of a store may do without
    from fungistore.backbones.timm_vit.loading import Outline

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Content:
    """What is stored of each image, and what makes it.

    Attributes:
        model: its name.
        features: what is extracted.
        arrays: that they make.
        source: where this is known from, in words.
        codec: of the feature set.
        unit_rows: of a store; None: it is to be chosen.
        chunk_bytes: mean size of a store's full chunks, by array, where they are compressed.
        image_size: side of the model's input in pixels; None: it is not known here.
        tokens: of an image; None: not known.
        parameters: of the model; None: not known.
        gradient_columns: length of a flattened gradient, 0 without any.
        gradient_dim: width of what it is projected to.
        bank_bytes: of latents that objectives compare with; None: not known.
    """

    model: str
    features: tuple[str, ...]
    arrays: tuple[Feature, ...]
    source: str
    codec: Codec
    unit_rows: int | None = None
    chunk_bytes: Mapping[str, float] = field(default_factory=dict)
    image_size: int | None = None
    tokens: int | None = None
    parameters: int | None = None
    gradient_columns: int = 0
    gradient_dim: int = 0
    bank_bytes: int | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of an image in all arrays, before any codec."""
        return sum(array.row_bytes for array in self.arrays)

    @property
    def vector_dim(self) -> int:
        """Width of all vectors of an image side by side."""
        vectors = vectors_of({array.path: array for array in self.arrays})
        return sum(prod(array.row_shape) for array in vectors.values())


def content_of_model(options: PlanOptions) -> Content:
    """Return what an extraction by a timm model would store; nothing is downloaded.

    Raises:
        UsageError: the model, its size or a feature cannot be used, or the model is not timm's.
    """
    from fungistore.backbones.timm_vit.loading import outlined
    from fungistore.gradients.layers import gradient_shape

    if options.model is None:
        raise UsageError(
            "nothing says what is extracted",
            expected="--model NAME, or a STORE that has some of it",
            hint="fungi plan --model vit_small_patch14_dinov2.lvd142m --images 1000000 --rate 500",
        )
    family, name = split_model(options.model)
    if family != TIMM:
        raise UsageError(
            "the widths of this model are not known before it is loaded",
            where=f"--model {options.model}",
            expected="a model of timm's, or a STORE that it has written some rows of",
            hint="fungi extract SOURCE small.fungi --limit 1000, then: fungi plan small.fungi",
        )
    asked = ExtractOptions(
        model=options.model,
        image_size=options.image_size,
        features=options.features or usual_features(options.model),
        pool=options.pool,
        projection_dim=options.projection_dim,
        storage_dtype=options.storage_dtype,
        codec=options.codec,
        unit_rows=options.unit_rows,
    )
    side = options.image_size
    if side is None and any(one.startswith(OF_PATCHES) for one in asked.features):
        side = dense_size(options.model)  # as extract chooses it
    outline = outlined(name, image_size=side)
    dim = options.projection_dim or outline.token_dim
    gradients = [one for one in asked.features if one not in (EMBEDDINGS, PATCHES)]
    needs = [asked.objectives[one].needs for one in dict.fromkeys(map(objective_name, gradients))]
    out, width = gradient_shape(outline.target_layer)
    return Content(
        model=options.model,
        features=asked.features,
        arrays=tuple(arrays_of(asked, outline, dim)),
        source=f"{outline.architecture} at {outline.image_size} px, built without weights",
        codec=options.codec,
        unit_rows=options.unit_rows,
        image_size=outline.image_size,
        tokens=prod(outline.token_shape),
        parameters=outline.parameters,
        gradient_columns=out * width if gradients else 0,
        gradient_dim=dim if gradients else 0,
        bank_bytes=sum(_bank_bytes(need, outline) for need in needs),
    )


def _bank_bytes(needs: Needs, outline: Outline) -> int:
    """Return the bytes of a bank's latents, before any are chosen among them."""
    bank, views = needs.bank, 1
    if bank is None:
        return 0
    if isinstance(needs.views, Windows):
        windows = needs.views
        recipe = Patchify(
            outline.image_size, windows.base_patches, windows.stride_scale, outline.image_size
        )
        views = bank.views or sum(group.count for group in recipe.groups)
    width = outline.token_dim if bank.width is None else bank.width or outline.embedding_dim
    return (bank.samples or bank.most or 0) * (bank.per_sample or views) * width * FLOAT32_BYTES


def content_of_store(store: Store, options: PlanOptions) -> Content:
    """Return what a store has of each image, its compressed chunks as large as they are.

    Raises:
        UsageError: it has no such feature set or features, or several sets, and none is named.
    """
    _refuse_other(options)
    name = _feature_set(store, options)
    found = {path: array for path, array in store.arrays(name).items() if not is_derived(path)}
    specs = {path: array.feature for path, array in found.items()}
    there = tuple(dict.fromkeys(spec.asked for spec in specs.values()))
    features = options.features or there
    if missing := [one for one in features if one not in there]:
        options.refuse("features", f"some of {', '.join(there)}", ", ".join(missing))
    arrays = tuple(spec for spec in specs.values() if spec.asked in features)
    chosen = [found[spec.path] for spec in arrays]
    config = frozen_choices(store, name)
    outline = _outline(config)
    return Content(
        model=str(config.get("backbone.model", "an unknown model")),
        features=features,
        arrays=arrays,
        source=f"{store.where}, feature set {name}",
        codec=chosen[0].codec,
        unit_rows=options.unit_rows or chosen[0].unit_rows,
        chunk_bytes=_measured_chunks(chosen) if options.unit_rows is None else {},
        image_size=config.get("backbone.image_size"),
        tokens=prod(outline.token_shape) if outline else None,
        parameters=outline.parameters if outline else None,
        gradient_columns=int(config.get("gradient.projection.columns", 0)),
        gradient_dim=int(config.get("gradient.projection.dim", 0)),
    )


def _refuse_other(options: PlanOptions) -> None:
    """Refuse settings that a store has decided."""
    given = {
        "model": options.model,
        "image_size": options.image_size,
        "projection_dim": options.projection_dim,
    }
    for name, value in given.items():
        if value is not None:
            options.refuse(name, "nothing beside a STORE, which has its own", value)


def _feature_set(store: Store, options: PlanOptions) -> str:
    names = store.feature_sets()
    if options.feature_set in names:
        return str(options.feature_set)
    if options.feature_set is not None or len(names) != 1:
        options.refuse(
            "feature_set", " or ".join(names) or "a store that has one", options.feature_set
        )
    return names[0]


def _outline(config: Config) -> Outline | None:
    """Return the outline of the model that made a feature set; None where that is not timm's."""
    from fungistore.backbones.timm_vit.loading import outlined

    if config.get("backbone.family") != TIMM:
        return None
    return outlined(str(config["backbone.model"]), image_size=config.get("backbone.image_size"))


def _measured_chunks(arrays: Sequence[UnitArray]) -> dict[str, float]:
    """Return the mean size of full chunks, of arrays whose chunks are compressed."""
    means = {}
    for array in arrays:
        if array.codec == "none":
            continue
        sizes = [c.bytes for c in array.commits().values() if c.rows == array.unit_rows]
        if sizes:
            means[array.feature.path] = fmean(sizes)
    return means
