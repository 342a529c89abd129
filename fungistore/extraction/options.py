"""What an extraction is asked to do: one frozen value that flags, files and Python all become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from annotated_types import Ge, MinLen

from fungistore.backbones.families import (
    absolute_adapter,
    absolute_model,
    feature_set_of,
    modality_of,
)
from fungistore.choices import Codec, Crop, DecodeIn, GradientTokens, ProjectionKind, StorageDtype
from fungistore.errors import UsageError, did_you_mean
from fungistore.extraction.objective_tables import (
    applied,
    as_table,
    is_default,
    objective_of,
    offered_beside,
)
from fungistore.extraction.offered import (
    layers_asked,
    unknown_features,
    usual_features,
    with_further_layers,
)
from fungistore.headings import DATA, FEATURES, MODEL, SPEED, STORAGE, VIEWS
from fungistore.machine.choices import DeviceChoice
from fungistore.modalities.requests import Normalization
from fungistore.names import NAME_RULE, PlainName, is_plain_name
from fungistore.objectives.registry import own_objectives
from fungistore.settings import Count, Positive, PowerOfTwo, Setting, refusal, to_json
from fungistore.store.feature import objective_name
from fungistore.type_words import Words

if TYPE_CHECKING:
    from fungistore.fingerprint import Config

TrunkDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]

# settings that not every model has
OF_FAMILIES = ("adapter", "pooling", "max_length", "prompt", "statistics", "gradient_tokens")


@dataclass(frozen=True, kw_only=True)
class ReplayChoice(DeviceChoice):
    """What may differ where a model makes once more what a store has: its file, and the device."""

    heading = MODEL

    weights: Annotated[
        str | None,
        Setting(
            "The model's weights, if the file has moved.", default="where it was", metavar="FILE"
        ),
    ] = None
    trust_code: Annotated[
        bool, Setting("Run the code of a torch.hub repository, as --model hub:FOLDER:ENTRY.")
    ] = False

    def __post_init__(self) -> None:
        """Check every field; a file of weights is known by its whole path."""
        super().__post_init__()
        if self.weights is not None:
            object.__setattr__(self, "weights", str(Path(self.weights).absolute()))


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(ReplayChoice):
    """Settings of `fungi extract`; None means "decide, and freeze it with the feature set".

    `objectives` has the objectives' own parameters, by name, as `kl.KL(temperature=1)` or as a
    table {"temperature": 1}; those left out have their defaults. `projection_memory` is kept
    beside the model: a larger projection is made anew for each batch.
    """

    heading = MODEL

    model: Annotated[
        str, Setting("Of timm, or FAMILY:NAME, as text:FOLDER.", metavar="NAME", names="model")
    ]
    weights: Annotated[
        str | None,
        Setting("A weights file of your own.", default="timm's download", metavar="FILE"),
    ] = None
    adapter: Annotated[
        str | None,
        Setting(
            "What `fungi adapt` trained: a name in the store, or a folder.",
            default="none",
            metavar="NAME|FOLDER",
            names="adaptation",
        ),
    ] = None
    image_size: Annotated[
        Count | None, Setting("Side of the model's input in pixels.", default="the model's own")
    ] = None
    crop: Annotated[
        Crop,
        Setting(
            "whole: squeeze the whole image into the square, as masks need it; model: its own; "
            "reference: FUNGI's code, the middle 224 of 256 pixels.",
            default="whole with gradients of patches, else model",
        ),
    ] = "auto"
    normalization: Annotated[
        Normalization,
        Setting("Pixel statistics of all views; imagenet: whatever the model's own are."),
    ] = "model"
    pooling: Annotated[
        Literal["class", "mean"] | None,
        Setting(
            "Of tokens: the first, or an AST's first two (class), or mean.",
            default="the model's card",
        ),
    ] = None
    max_length: Annotated[
        Count | None,
        Setting("Tokens of a text, or frames of a recording.", default="what the model takes"),
    ] = None
    prompt: Annotated[
        str | None,
        Setting("Goes before each text.", default="the model's card", metavar="WORDS"),
    ] = None
    statistics: Annotated[
        Annotated[tuple[float, Positive], Words("mean and deviation, as -6.63,5.36")] | None,
        Setting(
            "Of a data set's filter banks.",
            default="those of the model's training",
            metavar="MEAN,STD",
        ),
    ] = None
    gradient_tokens: Annotated[
        GradientTokens | None,
        Setting(
            "Of AST's two tokens: both (pooled), or the first alone, as in FUNGI's code.",
            default="pooled",
        ),
    ] = None
    features: Annotated[
        Annotated[tuple[str, ...], MinLen(1)],
        Setting(
            "Of embeddings, kl, dino, simclr, deepcluster, ibot, mlm, patches, patches/simclr, "
            "patches/kl.",
            default="embeddings,kl; of texts and sounds embeddings",
            metavar="NAMES",
            heading=FEATURES,
            names="extracted feature",
        ),
    ] = ()  # by the modality
    feature_set: Annotated[
        PlainName | None,
        Setting(
            "Name in the store.",
            default="the model",
            metavar="NAME",
            heading=FEATURES,
            names="feature set",
        ),
    ] = None
    dtype: Annotated[
        TrunkDtype,
        Setting("Precision up to the target layer; int8 is for CPUs.", heading=SPEED),
    ] = "auto"
    compile: Annotated[
        bool | None,
        Setting(
            "Compile the model; pays where a run takes long.",
            default="as the feature set was begun, else off",
            heading=SPEED,
        ),
    ] = None
    storage_dtype: Annotated[
        StorageDtype, Setting("Of stored vectors; patch tensors are float16.", heading=STORAGE)
    ] = "float16"
    batch_size: Annotated[
        Count | None,
        Setting(
            "Images, or views, computed together.",
            default="from the model and the memory",
            heading=SPEED,
        ),
    ] = None
    workers: Annotated[
        Count | None,
        Setting(
            "Threads, or processes, that decode images.",
            default="from the CPU cores",
            heading=SPEED,
        ),
    ] = None
    decode_in: Annotated[
        DecodeIn,
        Setting("auto: processes for a GPU and many images; no feature changes.", heading=SPEED),
    ] = "auto"
    seed: Annotated[int, Setting("Of heads, projection, negatives and views.", heading=VIEWS)] = 42
    view_size: Annotated[
        Literal["model", "native"] | Count,
        Setting(
            "model (the paper), native (fewer pixels, faster), or a side in pixels.",
            heading=VIEWS,
        ),
    ] = "model"
    pool: Annotated[Count, Setting("Average patch tensors over N x N cells.", heading=FEATURES)] = 1
    projection: Annotated[
        ProjectionKind,
        Setting("sparse: a third is not 0; very-sparse: 1/sqrt(m), Li 2006.", heading=VIEWS),
    ] = "binary"
    projection_dim: Annotated[
        Count | None,
        Setting("Width of a gradient feature.", default="the blocks' width", heading=VIEWS),
    ] = None
    projection_memory: Annotated[
        Annotated[float, Ge(0)], Setting("GiB that the projection may occupy.", heading=SPEED)
    ] = 4.0
    target_layer: Annotated[
        str | tuple[str, ...] | None,
        Setting(
            "Linear layer to differentiate, or several: of each one a feature, as kl@NAME.",
            default="the last attn.proj",
            metavar="NAMES",
            heading=VIEWS,
        ),
    ] = None
    codec: Annotated[
        Codec | None,
        Setting(
            "none: memory-mappable; zstd: lossless; bitround: lossy patches.",
            default="none",
            heading=STORAGE,
        ),
    ] = None
    unit_rows: Annotated[
        PowerOfTwo | None,
        Setting(
            "Rows that are committed at once, a power of two.",
            default="from the measured speed and a row's size",
            heading=STORAGE,
        ),
    ] = None
    shard_units: Annotated[
        PowerOfTwo | None,
        Setting(
            "Chunks of --unit-rows in one file (a shard), committed at once.",
            default="1",
            heading=STORAGE,
        ),
    ] = None
    bank_from: Annotated[
        str | None,
        Setting(
            "Compare with the negatives of another store, not with own ones.",
            default="own ones",
            metavar="STORE",
            heading=VIEWS,
        ),
    ] = None
    limit: Annotated[
        Count | None,
        Setting(
            "Only the first N images; a later run goes on.", default="all images", heading=DATA
        ),
    ] = None
    on_error: Annotated[
        Literal["skip", "fail", "truncated"],
        Setting(
            "Unreadable images: skip (and list), fail, or read those that end too early as far as "
            "they go (and list them).",
            heading=DATA,
        ),
    ] = "skip"
    objectives: Annotated[
        Mapping[str, Any],
        Setting(
            "A parameter of an objective, such as dino.local_crops=6.",
            flag="--set",
            default="the paper's",
            metavar="OBJECTIVE.FIELD=VALUE",
            heading=VIEWS,
            is_repeated=True,
        ),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field, and fill in the objectives.

        Raises:
            UsageError: naming the option, what it takes and what it got.
        """
        if self.features == () and isinstance(self.model, str):
            object.__setattr__(self, "features", usual_features(self.model))
        object.__setattr__(self, "adapter", absolute_adapter(self.adapter))
        super().__post_init__()
        object.__setattr__(self, "model", absolute_model(self.model))
        if self.bank_from is not None and "://" not in self.bank_from:
            object.__setattr__(self, "bank_from", str(Path(self.bank_from).absolute()))
        offered = offered_beside(ExtractOptions)
        for name in self.objectives:
            if name not in offered:
                expected = " or ".join(offered)
                raise UsageError(
                    "unknown objective",
                    where="--set",
                    expected=expected,
                    found=name,
                    hint=did_you_mean(name, offered),
                )
        asked = {
            *own_objectives(),
            *map(objective_name, self.features),
            *self.objectives,
        }  # no other plug-in is imported
        modality = modality_of(self.model)
        complete = {
            name: objective_of(name, self.objectives.get(name, {}), modality)
            for name in offered
            if name in asked
        }
        object.__setattr__(self, "objectives", complete)
        layers = layers_asked(self.target_layer)
        object.__setattr__(self, "target_layer", layers if layers[1:] else next(iter(layers), None))
        object.__setattr__(self, "features", with_further_layers(self.features, layers))
        if unknown := unknown_features(self.features, offered):
            known = ("embeddings", *offered, "patches")
            self.refuse("features", f"some of {', '.join(known)}", ", ".join(unknown))
        if not is_plain_name(self.name):
            self.refuse("feature_set", NAME_RULE, self.name)

    @property
    def name(self) -> str:
        """Name of the feature set."""
        return self.feature_set or feature_set_of(self.model, self.adapter)

    @property
    def of_the_family(self) -> Config:
        """The settings that some families of models have, where they are given."""
        found = {name: getattr(self, name) for name in OF_FAMILIES}
        return {name: value for name, value in found.items() if value is not None}

    def rows_of(self, samples: int) -> int:
        """Return how many of a store's samples are extracted."""
        return min(samples, self.limit or samples)

    def with_settings(self, *settings: str) -> Self:
        """Return the options with `OBJECTIVE.FIELD=VALUE` applied.

        Raises:
            UsageError: a setting is not of that form, or the objective has none such.
        """
        tables = {name: to_json(one) for name, one in self.objectives.items()}
        return replace(self, objectives=applied(settings, tables, offered_beside(type(self))))

    def to_config(self) -> Config:
        """Return a JSON-ready dictionary that `from_config` turns back into the same options.

        An objective that is not extracted, and has its defaults, is left out: a plug-in's may not
        be there when the options are read.
        """
        config = super().to_config()
        tables = config.pop("objectives")
        return config | {
            name: tables[name]
            for name, objective in self.objectives.items()
            if name in map(objective_name, self.features) or not is_default(name, objective)
        }

    @classmethod
    def flat(cls, config: Mapping[str, Any]) -> Config:
        """Return a configuration by names of flags and one table an objective.

        Raises:
            UsageError: an objective's settings, or all of them, are of another form.
        """
        offered = offered_beside(ExtractOptions)
        tables = {name: value for name, value in config.items() if name in offered}
        rest = {name: value for name, value in config.items() if name not in tables}
        tables |= as_table(rest.pop("objectives", {}), "objectives")
        flat = super().flat(rest)
        settings = flat.pop("set", ())
        settings = [settings] if isinstance(settings, str) else settings
        if not isinstance(settings, list | tuple) or not all(isinstance(s, str) for s in settings):
            raise refusal("--set", "a list of OBJECTIVE.FIELD=VALUE", settings)
        return flat | applied(
            settings, {n: as_table(value, n) for n, value in tables.items()}, offered
        )

    @classmethod
    def _from_flat(cls, flat: Mapping[str, Any]) -> Self:
        offered = offered_beside(ExtractOptions)
        tables = {name: value for name, value in flat.items() if name in offered}
        rest = {name: value for name, value in flat.items() if name not in tables}
        return super()._from_flat(rest | {"set": tables})
