"""`fungi bank`: labelled patches of the training images, chosen once, and an index of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import MismatchError, UsageError
from fungistore.fingerprint import Config, describe, differences, fingerprint
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.tokens import TokenMatrix, open_tokens
from fungistore.quantities import counted
from fungistore.segmentation.bank_images import BankImages, choose_images
from fungistore.segmentation.bank_index import settle_index
from fungistore.segmentation.bank_masks import MASKS_INPUT, said_of_masks
from fungistore.segmentation.bank_options import BankOptions
from fungistore.segmentation.banks import CENTRE, TENSORS, load_centre, open_bank
from fungistore.segmentation.labels import choose_patches, patch_counts, with_background
from fungistore.store.chunks import layout_config
from fungistore.store.commit import Commit, NewUnit
from fungistore.store.coverage import read_rows
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.feature import BANK, BANK_LABELS, PATCHES, Feature
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.records import Records
from fungistore.store.references import is_same
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

if TYPE_CHECKING:
    from fungistore.segmentation.augmented import Augmenter

EXACT_COUNTS = 2048  # whole numbers up to it are float16's own


@dataclass(frozen=True)
class BankResult:
    """What `fungi bank` did.

    Attributes:
        store: the store's directory.
        feature_set: of the patches.
        name: of the bank.
        features: its blocks.
        dim: width of a patch's vector.
        classes: names of the classes.
        images: training images whose patches are in it.
        patches: patches in all.
        per_image: the most that a view of an image gives.
        epochs: views of each image.
        excluded: training images that give none, by reason.
        factory: of its index; "Flat" is exact search, without a file.
        recall: recall@10 of the index, 1 for exact search; None where there is none to measure.
        units_computed: units written by this run.
        units_total: units that the rows make.
        fingerprint: of the bank.
        fingerprints: of the arrays it was made from.
    """

    store: str
    feature_set: str
    name: str
    features: tuple[str, ...]
    dim: int
    classes: tuple[str, ...]
    images: int
    patches: int
    per_image: int
    epochs: int
    excluded: dict[str, int]
    factory: str
    recall: float | None
    units_computed: int
    units_total: int
    fingerprint: str
    fingerprints: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        document = asdict(self)
        computed, total = document.pop("units_computed"), document.pop("units_total")
        return document | {"units": {"done": total, "total": total, "computed": computed}}


def build_bank(
    store: str | Path,
    options: BankOptions = BankOptions(),
    *,
    restart: bool = False,
    context: Context = DEFAULT,
) -> BankResult:
    """Write a memory bank of the training images' patches, continuing where it stopped.

    Each image gives as many patches as the others: those with the rarest of its classes, at random
    (FUNGI, section 3.3, and its reference code). A second run takes new images, those whose masks
    or features have changed, and nothing else; how many patches an image gives stays.

    Args:
        store: the store's directory.
        options: what of, how many, and how they are looked up.
        restart: first delete the bank of this name.
        context: its reporter is told what happens, its stop asked between units.

    Raises:
        UsageError: there are no masks, no such features, or no training images with both.
        MismatchError: a bank of this name was made with other settings.
        StoppedError: `context` asked for it; committed units are kept.
        StoreError: the store is damaged.
    """
    opened = Store.open(store, keep_removed=options.keep_removed)
    tokens = open_tokens(
        opened, options.features, feature_set=options.feature_set, weights=options.block_weights
    )
    thing = f"features/{tokens.feature_set}/{BANK}{options.name}"
    with disk_errors_explained(opened.where), opened.writing(thing) as target:
        plan = choose_images(target, tokens, options.group, context)
        return _build(target, plan, options, context, restart=restart)


def _build(
    store: Store, plan: BankImages, options: BankOptions, context: Context, *, restart: bool
) -> BankResult:
    tokens, name = plan.tokens, options.name
    arrays = store.arrays(tokens.feature_set)
    existing = arrays.get(BANK + name)
    if restart:
        gone = [arrays[path] for path in (BANK_LABELS + name, BANK + name) if path in arrays]
        if gone:
            context.reporter.notice(f"--restart: deleting bank {name}")
            store.remove_arrays(gone)
        existing = None
    store.sweep()
    config = _config(plan, options)
    if existing is not None:
        config = _settled(store, existing, config, context)
    else:
        store.remove_unused_setups()
    key, made = fingerprint(config), config["bank"]
    if not store.setups.has(key):
        tensors: dict[str, NDArray[Any]] = {}
        if options.center == "positions":
            tensors[CENTRE] = _mean_tokens(tokens, plan.rows, context)
        store.setups.freeze(config, {TENSORS: tensors} if tensors else {}, {})
    tokens.centre = load_centre(store, key)
    most = made["per_image"] * made["epochs"]
    specs = {
        BANK: Feature(BANK + name, (most, tokens.dim), made["dtype"]),
        BANK_LABELS: Feature(BANK_LABELS + name, (most, len(made["classes"])), made["label_dtype"]),
    }
    both = []
    for path in (BANK_LABELS, BANK):
        array = arrays.get(path + name) if existing is not None else None
        array = array or store.create_array(
            tokens.feature_set,
            specs[path],
            rows=tokens.rows,
            unit_rows=tokens.unit_rows,
            shard_units=made.get("shard_units", 1),
            codec=made["codec"],
            fingerprint=key,
        )
        array.grow(tokens.rows)
        both.append(array)
    computed = _fill(store, plan, both[0], both[1], config, options, context)
    bank = open_bank(store, name, tokens.feature_set, searchable=False)
    index = settle_index(bank, options, context)
    return BankResult(
        store=store.where,
        feature_set=tokens.feature_set,
        name=name,
        features=tokens.features,
        dim=tokens.dim,
        classes=tuple(made["classes"]),
        images=len(bank.rows),
        patches=len(bank.vectors),
        per_image=made["per_image"],
        epochs=made["epochs"],
        excluded=plan.excluded,
        factory=index.factory,
        recall=index.recall,
        units_computed=computed,
        units_total=both[1].units,
        fingerprint=key,
        fingerprints=tokens.fingerprints,
    )


def _config(plan: BankImages, options: BankOptions) -> Config:
    tokens, masks = plan.tokens, plan.masks
    height, width = tokens.shape
    per_image = height * width
    if options.size is not None:
        given = options.size // (len(plan.rows) * options.epochs)
        per_image = max(1, min(per_image, given))
    array = next(iter(tokens.arrays.values()))
    contents = tokens.contents_of(plan.rows) if options.center == "positions" else {}
    return {
        "schema": SCHEMA_VERSION[0],
        "bank": {
            "features": list(tokens.features),
            "weights": list(tokens.weights),
            "inputs": tokens.fingerprints,
            "contents": {name: asdict(one) for name, one in contents.items()},
            "classes": list(masks.classes),
            "per_image": per_image,
            "epochs": options.epochs,
            "cell": tokens.cell,
            "void": options.void,
            "center": options.center,
            "seed": options.seed,
            "dtype": "float16",
            "label_dtype": "float16" if tokens.cell**2 <= EXACT_COUNTS else "float32",
            "options": _flags(options),
        }
        | layout_config(tokens.unit_rows, array.shard_units, array.codec)
        | ({} if options.group is None else {"group": options.group}),
    }


def _flags(options: BankOptions) -> Config:
    """Return the settings that make the same bank again, by their flags."""
    names = ("features", "block_weights", "center", "size", "epochs", "void", "factory", "seed")
    values = {name: getattr(options, name) for name in names}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _settled(store: Store, existing: UnitArray, asked: Config, context: Context) -> Config:
    """Return the stored configuration, if what is asked for differs in what may grow alone."""
    stored = store.setups.config(existing.fingerprint)
    ours = ("bank.contents", "bank.options")
    fields = {
        name: both
        for name, both in differences(stored, asked, common=False).items()
        if not name.startswith(ours)
    }
    for name in [n for n, both in fields.items() if n.startswith("bank.inputs.")]:
        if is_same(*fields[name]):
            del fields[name]
    size = stored["bank"]["options"].get("size"), asked["bank"]["options"].get("size")
    if size[0] == size[1] and "bank.per_image" in fields:
        del fields["bank.per_image"]
        context.reporter.notice(
            f"each image gives {counted(stored['bank']['per_image'], 'patch', 'patches')}, as when "
            "the bank was begun; --restart divides its size among all images anew"
        )
    if fields:
        raise MismatchError(
            "a bank of this name was made with other settings",
            where=existing.name,
            expected="the same settings, or another name",
            found=describe(fields),
            hint="another --name keeps both, --restart starts anew",
        )
    return stored


def _mean_tokens(tokens: TokenMatrix, rows: Rows, context: Context) -> NDArray[np.float32]:
    """Return the mean patch token of each place over some rows, summed in their order."""
    array = tokens.arrays.get(PATCHES)
    if array is None:
        raise UsageError(
            "positions are taken away from patch tokens",
            where="--center positions",
            expected=f"{PATCHES} among the features",
            found=", ".join(tokens.features),
        )
    total = np.zeros(array.array.shape[1:], np.float64)
    context.reporter.begin("images of the mean", len(rows))
    for row in rows.tolist():
        context.stop_if_asked()
        total += read_rows(array, row, row + 1)[0]
        context.reporter.advance(1)
    context.reporter.end()
    mean: NDArray[np.float32] = (total / len(rows)).astype(np.float32)
    return mean


def _fill(
    store: Store,
    plan: BankImages,
    labels: UnitArray,
    vectors: UnitArray,
    config: Config,
    options: BankOptions,
    context: Context,
) -> int:
    """Write every unit that lacks rows, or was made of others; returns how many."""
    tokens = plan.tokens
    records = Records([*tokens.arrays.values(), labels, vectors])
    chosen = {
        unit: plan.rows[plan.rows // tokens.unit_rows == unit]
        for unit in np.unique(plan.rows // tokens.unit_rows).tolist()
    }
    ready = {unit: c for unit in range(vectors.units) if (c := tokens.committed(unit))}
    digests = {
        unit: said_of_masks(plan.masks, unit * tokens.unit_rows, chosen.get(unit, plan.rows[:0]))
        for unit in ready
    }
    written = {array.name: records.written(array.name) for array in (labels, vectors)}

    def is_done(unit: int, commit: Commit) -> bool:
        for array in (labels, vectors):
            mine = written[array.name].get(unit)
            if mine is None or mine.rows < commit.rows or unit in records.out_of_date(array.name):
                return False
            if dict(mine.inputs).get(MASKS_INPUT) != digests[unit]:
                return False
        return True

    to_do = [unit for unit, commit in ready.items() if not is_done(unit, commit)]
    if to_do and len(to_do) < len(ready):
        context.reporter.notice(f"resuming: {len(ready) - len(to_do)}/{len(ready)} units done")
    elif not to_do:
        said = counted(len(ready), "unit is", "units are")
        context.reporter.notice(f"nothing to do: all {said} done")
    context.reporter.begin("units", len(ready), done=len(ready) - len(to_do))
    names = [one.name for one in tokens.arrays.values()]
    augmenter = None
    if to_do and config["bank"]["epochs"] > 1:
        from fungistore.segmentation.augmented import Augmenter  # the model, for these alone

        augmenter = Augmenter.load(tokens, options, context)
    for unit in to_do:
        context.stop_if_asked()
        commit = ready[unit]
        rows = chosen.get(unit, plan.rows[:0])
        made = _unit(store, plan, rows, unit * tokens.unit_rows, commit.rows, config, augmenter)
        inputs = (*records.inputs_of(names, unit, commit.rows), (MASKS_INPUT, digests[unit]))
        for array in (labels, vectors):  # a record must not vouch for the new chunk, or its pair
            if unit in written[array.name]:
                array.forget(unit)
        for array, block in zip((labels, vectors), made, strict=True):
            stored = block.astype(array.array.dtype)
            array.publish_all([NewUnit(unit, stored, commit.ids, commit.failed, None, inputs)])
        context.reporter.advance(1)
    context.reporter.end()
    return len(to_do)


def _unit(
    store: Store,
    plan: BankImages,
    rows: Rows,
    start: int,
    count: int,
    config: Config,
    augmenter: Augmenter | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the labels [count, K, c] and vectors [count, K, dim] of a unit; NaN where none is."""
    made, tokens = config["bank"], plan.tokens
    per_image, epochs, classes = made["per_image"], made["epochs"], len(made["classes"])
    labels = np.full((count, per_image * epochs, classes), np.nan, np.float32)
    vectors = np.full((count, per_image * epochs, tokens.dim), np.nan, np.float32)
    samples = dict(zip(rows.tolist(), store.samples.take(rows), strict=True))
    for numbers, grids in tokens.stream(rows):
        for row, stored in zip(numbers.tolist(), grids, strict=True):
            sample, mask = samples[row], plan.masks.read(row)
            for epoch in range(epochs):
                grid, shown, key = stored, mask, sample["id"]
                if epoch and augmenter is not None:
                    grid, shown = augmenter.view(sample, mask, epoch)
                    key = f"{key}\0{epoch}"
                if made["void"] == "background":
                    shown = with_background(shown)
                counts = patch_counts(shown, tokens.shape, made["cell"], classes)
                counts[~grid.any(axis=-1)] = 0  # a token of zeros, as of one image less its mean
                places = choose_patches(counts, per_image, made["seed"], key)
                taken = slice(epoch * per_image, epoch * per_image + len(places))
                labels[row - start, taken] = counts.reshape(-1, classes)[places]
                vectors[row - start, taken] = grid.reshape(-1, tokens.dim)[places]
    return labels, vectors
