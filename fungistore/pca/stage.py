"""`fungi pca`: a PCA of feature blocks, or a random map, and what it gives as a feature array."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fungistore.engines.engine import Engine
from fungistore.engines.pieces import ALONE, is_alone
from fungistore.errors import MismatchError, UsageError
from fungistore.fingerprint import Config, describe, differences, digest_rows, fingerprint
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import FeatureMatrix, open_features
from fungistore.matrices.splits import HOLDOUT, choose_split
from fungistore.names import refuse_odd_name
from fungistore.pca.components import Pca, fitted, largest_dim
from fungistore.pca.frozen import TENSORS, kind_of, load, tensors_of
from fungistore.pca.moments import run_name, sum_moments
from fungistore.pca.options import PcaOptions
from fungistore.pca.random_map import RandomMap
from fungistore.pca.transform import transform, transform_work
from fungistore.quantities import counted
from fungistore.store.chunks import layout_config
from fungistore.store.contents import contents_in, made_anew
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.feature import PCA, Feature, is_pca, vectors_of
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.references import explain_banks, is_same
from fungistore.store.samples import Rows
from fungistore.store.scratch import Scratch
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

DEFAULT_DIM = 512  # FUNGI, table 20


@dataclass(frozen=True)
class PcaResult:
    """What `fungi pca` did.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        name: name of the PCA.
        features: its blocks.
        input_dim: width of the blocks together.
        dim: number of components.
        fit: which rows it was fitted on, and how many; of a random map none.
        explained_variance: the part of the variance that the components explain; None: random.
        rows: rows with coordinates.
        unreadable: of them, rows that are NaN because their input is.
        units_computed: units written by this run.
        units_total: units that the rows make.
        fingerprint: of the PCA.
        fingerprints: of the arrays it was made from.
    """

    store: str
    feature_set: str
    name: str
    features: tuple[str, ...]
    input_dim: int
    dim: int
    fit: Config
    explained_variance: float | None
    rows: int
    unreadable: int
    units_computed: int
    units_total: int
    fingerprint: str
    fingerprints: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        document = asdict(self)
        computed, total = document.pop("units_computed"), document.pop("units_total")
        return document | {"units": {"done": total, "total": total, "computed": computed}}


def fit_pca(
    store: str | Path,
    options: PcaOptions = PcaOptions(),
    *,
    restart: bool = False,
    engine: Engine = ALONE,
    context: Context = DEFAULT,
) -> PcaResult:
    """Fit a PCA and write its coordinates as the feature `pca/NAME`, continuing where it stopped.

    With `reduction="random"` a random projection is drawn in its place, and fitted to nothing.

    Blocks are L2-normalised and concatenated first (FUNGI, section 3.4); nothing is normalised
    afterwards. A second run transforms only what is new: what was fitted is never fitted again.

    Args:
        store: the store's directory.
        options: what to fit, and on what.
        restart: first delete the PCA of this name.
        engine: who reads the rows to fit on, and who transforms which units: `Local()` is this
            process, `Processes(("cpu",) * 4)` four of them. The result is the same, bit for bit.
        context: its reporter is told what happens, its stop asked between units.

    Raises:
        UsageError: features, split or dim cannot be had.
        MismatchError: a PCA of this name was made with other settings.
        StoppedError: `context` asked for it; committed units are kept.
    """
    opened = Store.open(store, keep_removed=options.keep_removed)
    matrix = open_features(opened, options.features, feature_set=options.feature_set)
    if options.reduction == "random":
        rows, origin = np.arange(0), {"from": "none"}
        dim = _settle_random_dim(matrix, options.dim)
        name = options.name or f"{matrix.name}-random-{dim}"
    else:
        rows, origin = _fit_rows(opened, matrix, options, context)
        dim = _settle_dim(matrix, len(rows), options.dim, context)
        name = options.name or f"{matrix.name}-{dim}"
    refuse_odd_name(name, "--name")
    config = _config(matrix, options, dim, origin, rows)
    thing = f"features/{matrix.feature_set}/{PCA}{name}"
    with disk_errors_explained(opened.where):
        with opened.writing(thing) as target:
            array = _fit(target, matrix, name, config, rows, engine, context, restart=restart)
            pca = load(target, array.fingerprint)
            if is_alone(engine):
                computed = transform(matrix, pca, array, context)
        if not is_alone(engine):  # each worker holds the units that it writes
            work = transform_work(matrix, array)
            computed = sum(result["units"] for result in engine.run(work, context))
    config = opened.setups.config(array.fingerprint)
    commits = array.commits().values()
    return PcaResult(
        store=opened.where,
        feature_set=matrix.feature_set,
        name=name,
        features=matrix.features,
        input_dim=matrix.dim,
        dim=config["pca"]["dim"],
        fit=config["pca"]["fit"],
        explained_variance=float(pca.explained_variance_ratio.sum())
        if isinstance(pca, Pca)
        else None,
        rows=sum(commit.rows for commit in commits),
        unreadable=sum(max(commit.nan_rows, commit.inf_rows) for commit in commits),
        units_computed=computed,
        units_total=array.units,
        fingerprint=array.fingerprint,
        fingerprints=matrix.fingerprints,
    )


def _fit(
    store: Store,
    matrix: FeatureMatrix,
    name: str,
    config: Config,
    rows: Rows,
    engine: Engine,
    context: Context,
    *,
    restart: bool,
) -> UnitArray:
    """Return the array of the coordinates, whose map is frozen."""
    existing = store.arrays(matrix.feature_set).get(PCA + name)
    if restart and existing:
        context.reporter.notice(f"--restart: deleting {existing.name}")
        store.remove_arrays([existing])
        existing = None
    store.sweep(keep=run_name(config))
    if existing:
        config = _settled(store, existing, matrix, config, len(rows), context)
    else:
        store.remove_unused_setups()  # of a deleted PCA, also where a kill came in between
    key = fingerprint(config)
    if not store.setups.has(key):
        made = _made(matrix, config, rows, engine, context)
        store.setups.freeze(config, {TENSORS: tensors_of(made, rows, len(store.samples))}, {})
    Scratch.of(store.backend, run_name(config)).remove()
    array = existing or store.create_array(
        matrix.feature_set,
        Feature(PCA + name, (config["pca"]["dim"],), config["pca"]["dtype"]),
        rows=matrix.rows,
        unit_rows=matrix.unit_rows,
        shard_units=config["pca"].get("shard_units", 1),
        codec=config["pca"]["codec"],
        fingerprint=key,
    )
    array.grow(matrix.rows)
    return array


def _made(
    matrix: FeatureMatrix, config: Config, rows: Rows, engine: Engine, context: Context
) -> Pca | RandomMap:
    dim: int = config["pca"]["dim"]
    if kind_of(config) == "random":
        return RandomMap.draw(matrix.features, matrix.dim, dim, config["pca"]["seed"])
    context.reporter.notice(
        f"fitting {counted(dim, 'component')} of {matrix.name} on {counted(len(rows), 'row')}"
    )
    return fitted(matrix.features, sum_moments(matrix, config, rows, engine, context), dim)


def load_pca(store: str | Path | Store, feature_set: str, name: str) -> Pca | RandomMap:
    """Return a fitted PCA of a store, or the random map that stands in its place.

    Raises:
        UsageError: there is none of that name.
        StoreError: it is damaged.
    """
    matrix = open_features(store, pca=name, feature_set=feature_set)
    (key,) = matrix.fingerprints.values()
    return load(matrix.store, key)


def refuse_leak(matrix: FeatureMatrix, test: Rows) -> None:
    """Refuse to test a PCA on rows that it was fitted on.

    Args:
        matrix: any features; only a PCA can leak.
        test: the rows to be tested on.

    Raises:
        MismatchError: the PCA has seen some of them.
    """
    if not is_pca(matrix.features[0]):
        return
    (key,) = matrix.fingerprints.values()
    bits = matrix.store.setups.tensors(key, TENSORS)["fit_rows"]
    fitted = np.unpackbits(bits).astype(bool)
    seen = int(fitted[test[test < len(fitted)]].sum())
    if seen:
        origin = matrix.store.setups.config(key)["pca"]["fit"]
        described = ", ".join(f"{name} {origin[name]}" for name in origin if name != "digest")
        raise MismatchError(
            f"the PCA was fitted on {seen} of the {counted(len(test), 'test row')}",
            where=matrix.name,
            expected="a PCA that has not seen the test rows",
            found=f"fitted on: {described}",
            hint="fit another with fungi pca, with the --holdout and --group of the evaluation, "
            "and as --split-seed its --split-seed, or --seed where it had none "
            f"(--holdout {HOLDOUT} if it names none), or on the train split",
        )


def _fit_rows(
    store: Store, matrix: FeatureMatrix, options: PcaOptions, context: Context
) -> tuple[Rows, Config]:
    """Return the usable rows to fit on, and where they come from."""
    coverage = matrix.coverage()
    splits = store.samples.splits()
    if options.holdout is not None:
        split = choose_split(
            store, holdout=options.holdout, seed=options.rows_seed, group=options.group
        )
        rows, origin = split.train, split.description
    elif options.fit_split in splits:
        rows, origin = splits[options.fit_split], {"from": options.fit_split}
    elif options.fit_split in ("all", "train"):
        rows, origin = np.arange(len(store.samples)), {"from": "all"}
        if options.fit_split == "train":
            context.reporter.notice(
                'no split "train": fitting on all rows; for an evaluation, which holds some out, '
                f"fit with --holdout {HOLDOUT}"
            )
    else:
        raise UsageError(
            f"there is no split {options.fit_split!r}",
            where=store.where,
            expected=", ".join(["all", *splits]),
            hint="--fit-split names one of them",
        )
    usable = rows[coverage.usable[rows]]
    if out := len(rows) - len(usable):
        said = counted(out, "row to fit on is", "rows to fit on are")
        context.reporter.notice(f"{said} missing or NaN: left out")
    return usable, origin


def _settle_dim(matrix: FeatureMatrix, rows: int, asked: int | None, context: Context) -> int:
    most = largest_dim(rows, matrix.dim)
    dim = asked if asked is not None else min(DEFAULT_DIM, most)
    if not 0 < dim <= most:
        raise UsageError(
            f"a PCA of {counted(dim, 'component')} cannot be fitted",
            where=f"{matrix.name} of feature set {matrix.feature_set!r}",
            expected=f"--dim from 1 to {most}" if most else "at least two usable rows",
            found=f"{counted(rows, 'usable row')} of {counted(matrix.dim, 'number')}",
            hint="give a smaller --dim, more --features, or more rows to fit on",
        )
    if asked is None and dim < DEFAULT_DIM:
        context.reporter.notice(
            f"{counted(rows, 'row')} of "
            f"{counted(matrix.dim, 'number determines', 'numbers determine')} "
            f"{counted(most, 'component')}: "
            f"--dim {dim} instead of {DEFAULT_DIM}"
        )
    return dim


def _settle_random_dim(matrix: FeatureMatrix, asked: int | None) -> int:
    dim = asked if asked is not None else min(DEFAULT_DIM, matrix.dim)
    if dim > matrix.dim:
        raise UsageError(
            "a random projection that gives more numbers than it takes reduces nothing",
            where=f"{matrix.name} of feature set {matrix.feature_set!r}",
            expected=f"--dim from 1 to {matrix.dim}",
            found=f"--dim {dim}",
            hint="give a smaller --dim, or more --features",
        )
    return dim


def _config(
    matrix: FeatureMatrix, options: PcaOptions, dim: int, origin: Config, rows: Rows
) -> Config:
    first = vectors_of(matrix.store.arrays(matrix.feature_set))[matrix.features[0]]
    return {
        "schema": SCHEMA_VERSION[0],
        "pca": {
            "features": list(matrix.features),
            "inputs": matrix.fingerprints,
            "contents": {name: asdict(one) for name, one in matrix.contents_of(rows).items()},
            "dim": dim,
            "fit": origin | {"rows": len(rows), "digest": digest_rows(rows)},
            "dtype": options.storage_dtype,
        }
        | layout_config(matrix.unit_rows, matrix.arrays[0].shard_units, first.codec)
        | ({"reduction": "random", "seed": options.seed} if options.reduction == "random" else {}),
    }


def _settled(
    store: Store,
    existing: UnitArray,
    matrix: FeatureMatrix,
    asked: Config,
    rows: int,
    context: Context,
) -> Config:
    """Return the stored configuration, if what is asked for differs in the rows alone."""
    stored = store.setups.config(existing.fingerprint)
    fields = {
        name: both
        for name, both in differences(stored, asked, common=False).items()
        if not name.startswith("pca.contents")
    }
    grown = fields.pop("pca.fit.digest", None)
    fields.pop("pca.fit.rows", None)
    inputs = {name: both for name, both in fields.items() if name.startswith("pca.inputs.")}
    for name in [name for name, both in inputs.items() if is_same(*both)]:
        del fields[name], inputs[name]  # one of them does not name its bank
    if fields:
        raise MismatchError(
            "a PCA of this name was made with other settings",
            where=existing.name,
            expected="the same settings, or another name",
            found=describe(fields) + (explain_banks(inputs) if inputs == fields else ""),
            hint="another --name keeps both, --restart starts anew",
        )
    if anew := made_anew(matrix.arrays, contents_in(stored["pca"], existing.name)):
        context.reporter.notice(
            f"the PCA was fitted on rows of {', '.join(anew)} that were made anew since: it is "
            "kept as it is; --restart fits it anew"
        )
    if grown:
        before = stored["pca"]["fit"]["rows"]
        context.reporter.notice(
            f"the PCA was fitted on {counted(before, 'row')}, there are {rows} now: "
            f"it is kept as it is; "
            "--restart fits it anew"
        )
    return stored
