"""Decides what the options leave open: the backbone, device, precision, batch size, projection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fungistore.backbones.backbone import Backbone, load_backbone
from fungistore.errors import UsageError
from fungistore.extraction.loader import default_workers
from fungistore.extraction.options import ExtractOptions
from fungistore.fingerprint import Config
from fungistore.gradients.path import gradient_path
from fungistore.gradients.projection import ProjectionSpec
from fungistore.gradients.tape import GradientPath
from fungistore.machine.device import default_batch_size, fast_dtype, refuse_unfit, resolve_device
from fungistore.modalities.modality import IMAGE, Modality, find_modality
from fungistore.modalities.views import ViewRecipe
from fungistore.objectives.objective import ContrastiveObjective, Objective
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Source
from fungistore.store.units import Codec


@dataclass(frozen=True)
class ArraySpec:
    """One array that an extraction writes: its name in the feature set, row shape and type."""

    name: str
    feature: str
    row_shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, before any codec."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Resolved:
    """Options after every "auto" has been decided, but for what is measured.

    `unit_rows` is None until a rate is measured; a batch that is open is halved until it fits.
    """

    options: ExtractOptions
    backbone: Backbone
    path: GradientPath
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    batch_size: int
    batch_is_open: bool
    workers: int
    codec: Codec
    unit_rows: int | None
    projection: ProjectionSpec

    @property
    def modality(self) -> Modality:
        """What the model takes."""
        return find_modality(self.backbone.modality)

    @property
    def arrays(self) -> list[ArraySpec]:
        """The arrays that the features make."""
        specs = []
        vectors = self.options.storage_dtype
        for feature in self.options.features:
            if feature == "embeddings":
                specs.append(ArraySpec(feature, feature, (self.backbone.embedding_dim,), vectors))
            elif feature == "patches":
                side = self.backbone.image_size // self.backbone.patch_size // self.options.pool
                shape = (side, side, self.backbone.token_dim)
                specs.append(ArraySpec(feature, feature, shape, "float16"))
            else:
                name = f"gradients/{feature}"
                specs.append(ArraySpec(name, feature, (self.projection.dim,), vectors))
                specs.append(ArraySpec(f"norms/{feature}", feature, (), "float32"))
        return specs

    def objective(self, feature: str) -> Objective:
        """Return the objective of a gradient feature."""
        objective: Objective = self.options.objectives[feature]
        return objective

    def views(self, feature: str) -> ViewRecipe | None:
        """Return the views of a gradient feature, None for the one that embeddings have."""
        backbone = self.backbone
        return self.objective(feature).views(
            backbone.image_size, backbone.patch_size, self.options.view_size
        )

    @property
    def dtype_name(self) -> Any:
        """Name of the trunk's precision, as `--dtype` takes it."""
        return str(self.dtype).removeprefix("torch.")

    def to_options(self) -> ExtractOptions:
        """Return options that name every decision, so that another machine repeats them."""
        return replace(
            self.options,
            dtype=self.dtype_name,
            compile=self.compiled,
            batch_size=self.batch_size,
            codec=self.codec,
            unit_rows=self.unit_rows,
            projection_dim=self.projection.dim,
            target_layer=self.backbone.target_layer,
            limit=None,
            workers=None,
            decode_in="auto",
        )

    @property
    def gradient_features(self) -> list[str]:
        """The features that are gradients."""
        return [f for f in self.options.features if f not in ("embeddings", "patches")]

    @property
    def negative_images(self) -> dict[str, int]:
        """How many images' latents each contrastive objective needs."""
        objectives = {feature: self.objective(feature) for feature in self.gradient_features}
        return {
            feature: objective.negative_images
            for feature, objective in objectives.items()
            if isinstance(objective, ContrastiveObjective)
        }


def resolve(options: ExtractOptions, frozen: Config) -> Resolved:
    """Load the backbone and decide what the options leave open.

    Args:
        options: what the user asked for.
        frozen: flattened configuration of the feature set, {} where it is new; its decisions stay.

    Raises:
        UsageError: options that this backbone or this machine cannot serve.
    """
    device = resolve_device(options.device)
    name = (
        options.dtype
        if options.dtype != "auto"
        else frozen.get("compute.dtype") or fast_dtype(device)
    )
    dtype: torch.dtype = getattr(torch, name)
    refuse_unfit(dtype, device)
    backbone = load_backbone(
        options.model,
        weights=Path(options.weights) if options.weights else None,
        image_size=options.image_size,
        target_layer=options.target_layer,
        several_sizes=options.view_size != "model",
    )
    grid = backbone.image_size // backbone.patch_size
    if grid % options.pool:
        raise UsageError(
            "patch tensors cannot be pooled evenly",
            where=f"--pool {options.pool}",
            expected=f"a divisor of the grid's {grid} rows",
            hint=f"choose another --image-size, a multiple of {options.pool * backbone.patch_size}",
        )
    if isinstance(options.view_size, int) and options.view_size % backbone.patch_size:
        raise UsageError(
            "views cannot be of this size",
            where=f"--view-size {options.view_size}",
            expected=f"model, native, or a multiple of {backbone.patch_size}",
        )
    backbone.model.to(device)
    compiled = options.compile
    if compiled is None:
        compiled = bool(frozen.get("compute.compiled"))
    path = gradient_path(backbone, dtype, compiled=compiled)
    columns = path.gradient_shape[0] * path.gradient_shape[1]
    dim = options.projection_dim or backbone.token_dim
    batch_size = options.batch_size or frozen.get("compute.batch_size")
    return Resolved(
        options=options,
        backbone=backbone,
        path=path,
        device=device,
        dtype=dtype,
        compiled=compiled,
        batch_size=batch_size or default_batch_size(device, grid**2),
        batch_is_open=batch_size is None and device.type == "cuda",
        workers=options.workers or default_workers(device.type),
        codec=options.codec or frozen.get("layout.codec") or "none",
        unit_rows=options.unit_rows or frozen.get("layout.unit_rows"),
        projection=ProjectionSpec(options.projection, dim, columns, options.seed),
    )


def modality_of(options: ExtractOptions) -> str:
    """Return the name of what a model takes, which decides what a source is searched for."""
    return IMAGE


def opened_source(source: str | Path | Source, options: ExtractOptions) -> Source:
    """Return the source that a path names, of what the model takes; a Source as it is."""
    if isinstance(source, str | Path):
        return open_source(source, modality=modality_of(options))
    return source
