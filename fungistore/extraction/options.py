"""What an extraction is asked to do: one frozen value that flags, files and Python all become."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from fungistore.backbones.families import feature_set_of
from fungistore.errors import UsageError
from fungistore.extraction.decoders import DecodeIn
from fungistore.fingerprint import Config
from fungistore.gradients.projection import Kind
from fungistore.names import NAME_RULE, is_plain_name
from fungistore.objectives.registry import OBJECTIVES
from fungistore.store.chunks import Codec

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True)
class ExtractOptions:
    """Settings of `fungi extract`; None means "decide, and freeze it with the feature set".

    Attributes:
        model: timm model name.
        weights: a weights file instead of timm's download.
        image_size: side of the model's input in pixels.
        features: what to extract, of "embeddings", "kl", "dino", "simclr", "patches".
        feature_set: name in the store; default: the model's name.
        seed: seed of heads, projection, negatives and views.
        view_size: "model" (the paper), "native", or pixels.
        pool: patch tensors are averaged over pool x pool cells.
        projection: kind of random projection.
        projection_dim: width of a gradient feature; default: the width of the model's blocks.
        projection_memory: GiB that the projection may occupy beside the model; a larger one is
            generated anew for each batch.
        target_layer: linear layer whose gradient is taken; default: the last block's `attn.proj`.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: precision up to the target layer; "int8" is for CPUs.
        compile: compile what runs up to the target layer with torch.compile.
        storage_dtype: precision of stored vectors; patch tensors are always float16.
        batch_size: images, or views, that are computed together; a CPU may take several forwards.
        workers: threads, or processes, that decode images.
        decode_in: "auto" takes processes for a GPU and many images; they change no feature.
        codec: "none" (memory-mappable), "zstd" (lossless), "bitround" (patches lossy, rest zstd).
        unit_rows: rows of a unit, a power of two.
        limit: extract only the first rows of the sample table.
        on_error: "skip" lists an unreadable image and goes on; "fail" stops at it.
        objectives: the objectives' own parameters, by name; those left out have their defaults.
    """

    model: str
    weights: str | None = None
    image_size: int | None = None
    features: tuple[str, ...] = ("embeddings", "kl")
    feature_set: str | None = None
    seed: int = 42
    view_size: str | int = "model"
    pool: int = 1
    projection: Kind = "binary"
    projection_dim: int | None = None
    projection_memory: float = 4.0
    target_layer: str | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    compile: bool | None = None
    storage_dtype: Literal["float16", "float32"] = "float16"
    batch_size: int | None = None
    workers: int | None = None
    decode_in: DecodeIn = "auto"
    codec: Codec | None = None
    unit_rows: int | None = None
    limit: int | None = None
    on_error: Literal["skip", "fail"] = "skip"
    objectives: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill in the objectives, and refuse values that no extraction could use.

        Raises:
            UsageError: naming the option, what it takes and what it got.
        """
        given = dict(self.objectives)
        complete = {name: given.pop(name, None) or kind() for name, kind in OBJECTIVES.items()}
        if given:
            _refuse("objectives", ", ".join(given), f"some of {', '.join(OBJECTIVES)}")
        object.__setattr__(self, "objectives", complete)
        object.__setattr__(self, "features", tuple(dict.fromkeys(self.features)))
        known = ("embeddings", *OBJECTIVES, "patches")
        unknown = [feature for feature in self.features if feature not in known]
        if unknown or not self.features:
            _refuse("features", ", ".join(unknown), f"some of {', '.join(known)}")
        for name in ("image_size", "projection_dim", "batch_size", "workers", "unit_rows", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                _refuse(name, value, "a number of 1 or more")
        if not self.projection_memory >= 0:
            _refuse("projection_memory", self.projection_memory, "GiB, 0 or more")
        if self.pool < 1:
            _refuse("pool", self.pool, "a number of 1 or more")
        if self.unit_rows is not None and self.unit_rows & (self.unit_rows - 1):
            _refuse("unit_rows", self.unit_rows, "a power of two")
        is_word = isinstance(self.view_size, str)
        if self.view_size not in ("model", "native") if is_word else int(self.view_size) < 1:
            _refuse("view_size", self.view_size, "model, native, or a side in pixels")
        if not is_plain_name(self.name):
            _refuse("feature_set", self.name, NAME_RULE)

    @property
    def name(self) -> str:
        """Name of the feature set."""
        return feature_set_of(self.model) if self.feature_set is None else self.feature_set

    def rows_of(self, samples: int) -> int:
        """Return how many of a store's samples are extracted."""
        return min(samples, self.limit or samples)

    def to_config(self) -> Config:
        """Return a JSON-ready dictionary that `from_config` turns back into the same options.

        An objective that is not extracted, and has its defaults, is left out: a plug-in's may not
        be there when the options are read.
        """
        config: Config = json.loads(json.dumps(asdict(self)))
        tables = config.pop("objectives")
        config |= {
            name: tables[name]
            for name, objective in self.objectives.items()
            if name in self.features or objective != OBJECTIVES[name]()
        }
        return {key: value for key, value in config.items() if value is not None}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ExtractOptions:
        """Build options from flag names (dashes or underscores) and one table an objective.

        Raises:
            UsageError: an unknown key, a value of the wrong type, or no model.
        """
        values: dict[str, Any] = {}
        objectives: dict[str, Any] = {}
        for key, value in config.items():
            name = key.replace("-", "_")
            if name not in OBJECTIVES:
                values[name] = value
            elif isinstance(value, Mapping):
                objectives[name] = _build(OBJECTIVES[name], value, f"[{name}] ")
            else:
                raise UsageError("an objective's settings are a table", where=name, found=value)
        if "model" not in values:
            raise UsageError("no model given", expected="--model NAME, or `model` in --config")
        options: ExtractOptions = _build(cls, values, "")
        return replace(options, objectives=objectives)


def read_config(path: Path) -> Config:
    """Read a TOML or JSON configuration file.

    Raises:
        UsageError: it is missing or malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        config: Config = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        if not isinstance(config, dict):
            raise ValueError("a list or a value instead of named settings")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            "the configuration cannot be read",
            where=f"--config {path}",
            expected="a TOML or JSON file",
            found=error,
        ) from error
    return config


def with_settings(config: Config, settings: list[str]) -> Config:
    """Return a configuration with `OBJECTIVE.FIELD=VALUE` settings applied; values are TOML.

    Raises:
        UsageError: a setting is not of that form.
    """
    merged = dict(config)
    for setting in settings:
        target, equals, text = setting.partition("=")
        table, dot, name = target.partition(".")
        if not equals or not dot or table not in OBJECTIVES:
            known = ", ".join(f"{key}.FIELD=VALUE" for key in OBJECTIVES)
            raise UsageError("malformed setting", where=f"--set {setting}", expected=known)
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        before = merged.get(table, {})
        if not isinstance(before, Mapping):
            raise UsageError("an objective's settings are a table", where=table, found=before)
        merged[table] = dict(before) | {name: value}
    return merged


def _build(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """Construct a dataclass from checked values."""
    names = [f.name for f in fields(kind)]
    unknown = sorted(values.keys() - set(names))
    if unknown:
        raise UsageError(
            "unknown setting", where=f"{where}{unknown[0]}", expected=f"one of {', '.join(names)}"
        )
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problem = error.errors()[0]
        name = f"{where}{'.'.join(map(str, problem['loc']))}"
        raise UsageError(
            "a setting has the wrong type or value",
            where=name,
            expected=problem["msg"],
            found=repr(problem["input"]),
        ) from error


def _refuse(name: str, value: object, expected: str) -> None:
    raise UsageError(
        f"cannot use this value of {name}",
        where=f"--{name.replace('_', '-')}",
        expected=expected,
        found=repr(value),
    )
