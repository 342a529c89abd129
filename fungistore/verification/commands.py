"""The commands that make again what a repair dropped."""

from __future__ import annotations

import os
import shlex

from fungistore.errors import StoreError
from fungistore.fingerprint import Config
from fungistore.indexing.record import IndexRecord
from fungistore.remote.urls import is_url
from fungistore.store.feature import EMBEDDINGS, PATCHES, is_pca, kind_of, name_of
from fungistore.store.setups import OPTIONS
from fungistore.store.store import Store


def command_for_array(store: Store, name: str, fingerprint: str) -> str:
    """Return the command that computes the missing units of an array."""
    feature_set, _, feature = name.partition("/")
    try:
        config = store.setups.config(fingerprint)
        setup = store.setups.folder(fingerprint)
        options = setup.where(OPTIONS) if fingerprint and setup.has(OPTIONS) else None
    except (StoreError, OSError):
        config, options = {}, None
    if is_pca(feature) or isinstance(config.get("pca"), dict):
        return _pca(store, feature_set, name_of(feature), config)
    if kind_of(feature) == "bank" or isinstance(config.get("bank"), dict):
        return _bank(store, feature_set, name_of(feature), config)
    if "import" in config:
        return _import(store, feature_set, name_of(feature), config)
    roots = list(dict.fromkeys(part.root for part in store.manifest.parts))
    is_there = len(roots) == 1 and (is_url(roots[0]) or os.path.exists(roots[0]))
    source = roots[0] if is_there else "SOURCE"
    command = _joined("fungi", "extract", source, store.where)
    return f"{command} --config {shlex.quote(options)}" if options else command


def command_for_index(store: Store, feature_set: str, name: str, record: IndexRecord | None) -> str:
    """Return the command that builds an index anew; without its record, with default settings."""
    words: list[object] = ["fungi", "index", store.where, "--feature-set", feature_set]
    words += ["--name", name]
    if record is not None:
        chosen = ["--pca", record.pca] if record.pca else ["--features", ",".join(record.features)]
        words += [*chosen, "--factory", record.factory, "--metric", record.metric]
        words += ["--seed", record.seed]
    return _joined(*words)


def _import(store: Store, feature_set: str, name: str, config: Config) -> str:
    words: list[object] = ["fungi", "import", "FILE", store.where, "--feature-set", feature_set]
    if name != EMBEDDINGS:
        words += ["--as", name]
    made = config["import"]
    source = made.get(name) if isinstance(made, dict) else None
    if name == PATCHES and isinstance(source, dict):
        if isinstance(grid := source.get("grid"), list):
            words += ["--grid", "x".join(map(str, grid))]
        if prefix := source.get("prefix_tokens"):
            words += ["--prefix-tokens", prefix]
        words += ["--channels", source.get("channels", "last")]
    return _joined(*words)


def _pca(store: Store, feature_set: str, name: str, config: Config) -> str:
    words: list[object] = ["fungi", "pca", store.where, "--feature-set", feature_set]
    words += ["--name", name]
    made = config.get("pca")
    try:
        assert isinstance(made, dict)
        fit = made["fit"]
        words += ["--features", ",".join(made["features"]), "--dim", made["dim"]]
        words += ["--storage-dtype", made["dtype"]]
        if "holdout" in fit:
            words += ["--holdout", fit["holdout"], "--split-seed", fit["seed"]]
        else:
            words += ["--fit-split", fit["from"]]
    except (AssertionError, KeyError, TypeError):  # a damaged setup, which has its own finding
        return _joined(*words[:7])
    return _joined(*words)


def _bank(store: Store, feature_set: str, name: str, config: Config) -> str:
    words: list[object] = ["fungi", "bank", store.where, "--feature-set", feature_set]
    words += ["--name", name]
    made = config.get("bank")
    if isinstance(made, dict) and isinstance(options := made.get("options"), dict):
        for flag, value in options.items():
            if value is not None:
                said = ",".join(map(str, value)) if isinstance(value, list) else value
                words += [f"--{flag.replace('_', '-')}", said]
    return _joined(*words)


def _joined(*words: object) -> str:
    return shlex.join(map(str, words))
