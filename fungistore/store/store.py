"""A store: one directory with samples, features, what they were made with, and failures."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fungistore.errors import MismatchError, StoreError, UsageError
from fungistore.fingerprint import Config, differences, fingerprint
from fungistore.sources import Source
from fungistore.store.durable import orphans, publish, publish_bytes
from fungistore.store.samples import Comparison, Part, SampleTable
from fungistore.store.units import COMMITS, FEATURES, UnitArray

SCHEMA_VERSION = (1, 0)  # (major, minor): a reader opens its own major and any minor
MANIFEST = "store.json"
SAMPLES = "samples.parquet"
SETUPS = "setups"
FAILURES = "failures.jsonl"


@dataclass(frozen=True)
class Failure:
    """An input that could not be read, as one line of `failures.jsonl`."""

    row: int
    uri: str
    error: str
    message: str


@dataclass(frozen=True)
class Manifest:
    """The contents of `store.json`.

    Attributes:
        schema: (major, minor) of the layout.
        id: random name of the store, given once.
        labels: class names; a sample's label is an index into them.
        parts: files of the sample table, in row order.
    """

    schema: tuple[int, int]
    id: str
    labels: tuple[str, ...]
    parts: tuple[Part, ...]

    def to_json(self) -> bytes:
        """Return the file's bytes; the count of samples is there for human readers."""
        document = asdict(self) | {"samples": sum(part.rows for part in self.parts)}
        return json.dumps(document, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Parse the file's bytes; raises KeyError, TypeError or ValueError where they are off."""
        document = json.loads(data)
        major, minor = document["schema"]
        parts = tuple(Part(p["file"], int(p["rows"]), p["root"]) for p in document["parts"])
        return cls((int(major), int(minor)), document["id"], tuple(document["labels"]), parts)


class Store:
    """An open store; use `Store.open` or `Store.open_or_create`.

    Args:
        root: its directory.
        manifest: the contents of its `store.json`.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @staticmethod
    def exists(root: Path) -> bool:
        """Whether a store, whatever its state, is at `root`."""
        return (root / MANIFEST).is_file()

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open an existing store.

        Raises:
            UsageError: there is none.
            StoreError: its manifest is damaged, or of a newer major schema.
        """
        path = root / MANIFEST
        if not cls.exists(root):
            raise UsageError(
                "not a fungi store",
                where=root,
                expected=f"a directory with a {MANIFEST}",
                hint=f"make one with: fungi extract SOURCE {root} --model NAME",
            )
        try:
            manifest = Manifest.from_json(path.read_bytes())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                "the store's manifest is damaged",
                where=path,
                found=f"{type(error).__name__}: {error}",
            ) from error
        if manifest.schema[0] != SCHEMA_VERSION[0]:
            raise StoreError(
                "the store was made by another major version",
                where=path,
                expected=f"schema {SCHEMA_VERSION[0]}.x",
                found=".".join(map(str, manifest.schema)),
                hint="install the version of fungistore that made it",
            )
        return cls(root, manifest)

    @classmethod
    def open_or_create(cls, root: Path) -> Store:
        """Open a store, or make an empty one where nothing, or an empty directory, is.

        Raises:
            UsageError: something else is there.
            StoreError: as in `open`.
        """
        if cls.exists(root):
            return cls.open(root)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UsageError(
                "the store's place is taken by something else",
                where=root,
                expected="a store, an empty directory, or nothing",
                hint="choose another STORE, conventionally NAME.fungi",
            )
        manifest = Manifest(SCHEMA_VERSION, uuid.uuid4().hex, (), ())
        publish_bytes(root / MANIFEST, manifest.to_json())
        return cls(root, manifest)

    @cached_property
    def samples(self) -> SampleTable:
        """The sample table."""
        return SampleTable(self.root / SAMPLES, list(self.manifest.parts))

    def add_source(self, source: Source) -> Comparison:
        """Append the samples of a source that the store lacks; known samples keep their rows.

        Labels get integers in sorted order the first time; later labels follow them.

        Raises:
            UsageError: two samples have the same id.
        """
        old = self.manifest
        names = [
            *old.labels,
            *(name for name in source.label_names() if name not in set(old.labels)),
        ]
        labels = {name: number for number, name in enumerate(names)}
        part, comparison = self.samples.append(source, source.root, labels)
        parts = list(old.parts) + ([part] if part else [])
        if comparison.known:  # a source that moved is read from where it is now
            parts = [
                Part(p.file, p.rows, p.root if os.path.isdir(p.root) else source.root)
                for p in parts
            ]
        self._commit(Manifest(old.schema, old.id, tuple(names), tuple(parts)))
        return comparison

    def arrays(self, feature_set: str) -> dict[str, UnitArray]:
        """Return the arrays of a feature set by their name in it, such as "gradients/kl"."""
        group = self._group(feature_set)
        if group is None:
            return {}
        members = group.members(max_depth=None)
        names = sorted(name for name, member in members if isinstance(member, zarr.Array))
        return {name: UnitArray(self.root, f"{feature_set}/{name}") for name in names}

    def feature_sets(self) -> list[str]:
        """Return the names of the feature sets."""
        group = self._group("")
        return sorted(group.group_keys()) if group is not None else []

    def copy_samples(self, root: Path) -> Store:
        """Return a store at `root`, an empty directory, with this one's samples and no features."""
        shutil.copy(self.root / MANIFEST, root)
        if (self.root / SAMPLES).is_dir():
            shutil.copytree(self.root / SAMPLES, root / SAMPLES)
        return Store(root, self.manifest)

    def remove(self) -> None:
        """Delete the whole store."""
        shutil.rmtree(self.root)

    def remove_arrays(self, arrays: Iterable[UnitArray]) -> None:
        """Delete arrays, records first: a kill half-way leaves nothing that looks done."""
        for array in arrays:
            shutil.rmtree(self.root / COMMITS / array.name, ignore_errors=True)
            shutil.rmtree(self.root / FEATURES / array.name)

    def setup(self, key: str) -> Config:
        """Return the resolved configuration that a fingerprint stands for.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = self.root / SETUPS / key / "config.json"
        try:
            config: Config = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StoreError("a setup is missing or damaged", where=path, found=error) from error
        return config

    def setup_tensors(self, key: str, name: str) -> dict[str, NDArray[Any]]:
        """Return a setup's frozen tensors.

        Raises:
            StoreError: they are missing or damaged.
        """
        path = self.root / SETUPS / key / f"{name}.safetensors"
        try:
            tensors: dict[str, NDArray[Any]] = load_file(path)
        except Exception as error:  # safetensors raises its own type and OSError alike
            raise StoreError("a setup is missing or damaged", where=path, found=error) from error
        return tensors

    def has_setup(self, key: str) -> bool:
        """Whether a setup was frozen."""
        return (self.root / SETUPS / key / "config.json").is_file()

    def freeze_setup(
        self,
        config: Config,
        tensors: Mapping[str, Mapping[str, NDArray[Any]]],
        documents: Mapping[str, Config],
    ) -> None:
        """Store a configuration and everything random or derived that goes with it; all or nothing.

        Args:
            config: what the fingerprint is of.
            tensors: named arrays by file name, such as {"tensors": {"projection.weight": ...}}.
            documents: further JSON files by name, such as the options that led to `config`.
        """
        key = fingerprint(config)

        def write(directory: Path) -> None:
            directory.mkdir()
            for name, document in {"config": config, **documents}.items():
                text = json.dumps(document, indent=1, sort_keys=True)
                (directory / f"{name}.json").write_text(text, encoding="utf-8")
            for name, arrays in tensors.items():
                contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
                save_file(contiguous, directory / f"{name}.safetensors")

        if not self.has_setup(key):
            publish(self.root / SETUPS / key, write)

    def refuse_mismatch(self, feature_set: str, asked: Mapping[str, Config]) -> None:
        """Compare configurations with those of a feature set's arrays, field by field.

        Args:
            feature_set: name of the feature set.
            asked: configuration of each array that is about to be written.

        Raises:
            MismatchError: a field that both have differs; nothing was changed.
        """
        stored: Config = {}
        for array in self.arrays(feature_set).values():
            stored = _merge(stored, self.setup(array.fingerprint))
        fields: dict[str, tuple[Any, Any]] = {}
        for config in asked.values():
            fields |= differences(stored, config)
        if fields:
            lines = [
                f"{name}: stored {old!r}, asked {new!r}" for name, (old, new) in fields.items()
            ]
            raise MismatchError(
                f"feature set {feature_set!r} was made with other settings",
                where=self.root,
                expected="the same settings, or another feature set",
                found="\n    ".join(lines),
                hint="repeat the stored settings, or keep both with --feature-set OTHER, "
                "or start it anew with --restart",
            )

    def failures(self) -> list[Failure]:
        """Return the failed inputs by row; the last line about a row counts."""
        try:
            lines = (self.root / FAILURES).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found: dict[int, Failure] = {}
        for line in lines:
            try:
                failure = Failure(**json.loads(line))
            except (
                ValueError,
                TypeError,
            ):  # a line cut short by a kill: its unit was not committed
                continue
            found[failure.row] = failure
        return [found[row] for row in sorted(found)]

    def add_failures(self, failures: Iterable[Failure]) -> None:
        """Append failed inputs and flush them to the disk, before their unit is committed."""
        lines = [json.dumps(asdict(failure)) + "\n" for failure in failures]
        if lines:
            with (self.root / FAILURES).open("a", encoding="utf-8") as file:
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())

    def compact_failures(self) -> None:
        """Rewrite the failures sorted, without the repeats that interrupted units leave."""
        if (self.root / FAILURES).exists():
            lines = [json.dumps(asdict(failure)) + "\n" for failure in self.failures()]
            publish_bytes(self.root / FAILURES, "".join(lines).encode())

    def sweep(self) -> int:
        """Remove what interrupted writes left behind; returns how many files or folders."""
        found = list(orphans(self.root))
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return len(found)

    def _group(self, name: str) -> zarr.Group | None:
        path = self.root / FEATURES / name
        return zarr.open_group(path, mode="r") if (path / "zarr.json").is_file() else None

    def _commit(self, manifest: Manifest) -> None:
        if manifest != self.manifest:
            publish_bytes(self.root / MANIFEST, manifest.to_json())
            self.manifest = manifest
            self.__dict__.pop("samples", None)


def _merge(first: Config, second: Mapping[str, Any]) -> Config:
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
