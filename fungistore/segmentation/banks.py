"""Memory banks, opened: labelled patches of training images, and the nearest of them to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fungistore.annotations.masks import open_masks
from fungistore.errors import MismatchError, StoreError, UsageError
from fungistore.fingerprint import Config
from fungistore.matrices.blocks import Vectors
from fungistore.matrices.tokens import TokenMatrix, open_tokens
from fungistore.quantities import counted
from fungistore.segmentation import lookup
from fungistore.segmentation.bank_masks import units_of_other_masks
from fungistore.store.contents import Commits, Content, content_of
from fungistore.store.coverage import read_rows
from fungistore.store.feature import BANK, BANK_LABELS, name_of
from fungistore.store.feature_sets import choose_feature_set
from fungistore.store.records import Records
from fungistore.store.references import is_same
from fungistore.store.removed import left_out
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

TENSORS, CENTRE = "bank", "centre"


class Searcher(Protocol):
    """Finds the nearest of a bank's vectors."""

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Return distances 1 - cosine [q, k], and places [q, k]; -1 where there is none."""


@dataclass(frozen=True)
class Bank:
    """Labelled patches of some images.

    Attributes:
        name: of the bank.
        feature_set: of the features.
        tokens: what its vectors are made of, for those that are to be looked up.
        classes: names of the classes.
        rows: images that it has patches of, ascending.
        vectors: [m, dim] float16, of unit length.
        counts: [m, c], the pixels of each class in each patch.
        owners: [m], the row of each patch's image.
        fingerprints: of the arrays of the bank.
        contents: the rows of these that it has.
        index: searches faster, and less exactly; None: exact search.
        group: column of the samples that kept images together where the bank's were chosen.
    """

    name: str
    feature_set: str
    tokens: TokenMatrix
    classes: tuple[str, ...]
    rows: Rows
    vectors: NDArray[np.float16]
    counts: NDArray[np.uint16]
    owners: Rows
    fingerprints: Mapping[str, str]
    contents: Mapping[str, Content]
    index: Searcher | None = None
    group: str | None = None

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Return the cosines [q, k] of unit vectors with their nearest, and places [q, k] of these.

        -1 is the place of one that was not found.
        """
        if self.index is None:
            return lookup.exact(self.vectors, queries, k)
        distances, places = self.index.search(queries, k)
        return 1 - distances, places

    def subset(self, rows: Sequence[int] | Rows) -> Bank:
        """Return the bank of some of its images alone; its search is exact."""
        kept = np.isin(self.owners, np.asarray(rows))
        return replace(
            self,
            rows=np.intersect1d(self.rows, rows),
            vectors=self.vectors[kept],
            counts=self.counts[kept],
            owners=self.owners[kept],
            index=None,
        )


def open_bank(
    store: str | Path | Store,
    name: str | None = None,
    feature_set: str | None = None,
    *,
    searchable: bool = True,
) -> Bank:
    """Open a memory bank.

    Args:
        store: the store, or its place.
        name: of the bank; may be left out where there is one.
        feature_set: may be left out where there is one.
        searchable: open its index, too.

    Raises:
        UsageError: there is no such bank; the error lists what exists.
        MismatchError: the features were made anew since with other settings, or masks are others.
        StoreError: it is damaged, or not finished.
    """
    store = Store.open(store)
    chosen = choose_feature_set(store, feature_set)
    arrays = store.arrays(chosen)
    names = [name_of(path) for path in arrays if path.startswith(BANK)]
    if name is None and len(names) == 1:
        (name,) = names
    if name is None or name not in names:
        asked = f"there is no bank {name!r}" if name else "there is no bank"
        raise UsageError(
            "which bank?" if names and name is None else asked,
            where=f"feature set {chosen!r} of {store.where}",
            expected=", ".join(names) or "none was made yet",
            hint=f"fungi bank {quote(store.where)} --name {name or 'bank'} makes one"
            if name or not names
            else "name one with --bank",
        )
    vectors, labels = arrays[BANK + name], arrays.get(BANK_LABELS + name)
    config = store.setups.config(vectors.fingerprint)
    made = config.get("bank")
    if labels is None or not isinstance(made, dict):
        raise _unfinished(store, name)
    tokens = _tokens(store, chosen, made, vectors.fingerprint)
    bank = _loaded(store, name, tokens, made, vectors, labels)
    if not searchable:
        return bank
    from fungistore.segmentation.bank_index import open_bank_index  # faiss, which it may not need

    return replace(bank, index=open_bank_index(bank))


def load_centre(store: Store, key: str) -> Vectors | None:
    """Return the mean token of each place that a bank takes away, None where it does not."""
    if store.setups.config(key)["bank"]["center"] == "none":
        return None
    centre: Vectors = store.setups.tensors(key, TENSORS)[CENTRE]
    return centre


def _tokens(store: Store, feature_set: str, made: Config, key: str) -> TokenMatrix:
    tokens = open_tokens(
        store,
        made["features"],
        feature_set=feature_set,
        weights=made["weights"],
        centre=load_centre(store, key),
    )
    now = tokens.fingerprints
    others = [n for n, then in made["inputs"].items() if n not in now or not is_same(now[n], then)]
    if others:
        raise MismatchError(
            "the bank is of features that were made anew since with other settings",
            where=", ".join(others),
            expected=", ".join(made["inputs"][name] for name in others),
            found=", ".join(now.get(name, "none") for name in others),
            hint="make it again: fungi bank with --restart",
        )
    return tokens


def _loaded(
    store: Store,
    name: str,
    tokens: TokenMatrix,
    made: Config,
    vectors: UnitArray,
    labels: UnitArray,
) -> Bank:
    records = Records([*tokens.arrays.values(), vectors, labels])
    current = _pairs(records.of(vectors.name), records.of(labels.name))
    _refuse_other_masks(store, name, made, vectors.unit_rows, current[0])
    gone = left_out(store)
    places: dict[int, tuple[Rows, Rows]] = {}
    pixels = []
    for unit in sorted(current[0].keys() & current[1].keys()):
        start = unit * vectors.unit_rows
        count = min(one[unit].rows for one in current)
        found = read_rows(labels, start, start + count)
        usable = np.nan_to_num(found.sum(axis=2)) > 0
        usable[np.isin(start + np.arange(count), gone)] = False
        owners, taken = np.nonzero(usable)
        places[unit] = owners.astype(np.int64), taken.astype(np.int64)
        pixels.append(found[places[unit]].astype(np.uint16))
    total = sum(len(owners) for owners, _ in places.values())
    if not total:
        raise _unfinished(store, name)
    stored = np.empty((total, tokens.dim), np.float16)  # once: banks may fill most of the memory
    owned, filled = np.empty(total, np.int64), 0
    for unit, (owners, taken) in places.items():
        start = unit * vectors.unit_rows
        part = slice(filled, filled + len(owners))
        if len(owners):
            found = read_rows(vectors, start, start + int(owners[-1]) + 1)
            stored[part], owned[part] = found[owners, taken], start + owners
        filled = part.stop
    rows = np.unique(owned)
    both = (vectors, labels)
    return Bank(
        name=name,
        feature_set=tokens.feature_set,
        tokens=tokens,
        classes=tuple(made["classes"]),
        rows=rows,
        vectors=stored,
        counts=np.concatenate(pixels),
        owners=owned,
        fingerprints=tokens.fingerprints
        | {one.name: store.setups.reference(one.fingerprint) for one in both},
        contents={one.name: content_of(one, rows, records.of(one.name)) for one in both},
        group=made.get("group"),
    )


def _pairs(vectors: Commits, labels: Commits) -> tuple[Commits, Commits]:
    """Return the records of the units whose vectors and labels were made together."""
    both = [
        unit
        for unit in vectors.keys() & labels.keys()
        if dict(vectors[unit].inputs) == dict(labels[unit].inputs)
    ]
    return {unit: vectors[unit] for unit in both}, {unit: labels[unit] for unit in both}


def _refuse_other_masks(
    store: Store, name: str, made: Config, unit_rows: int, commits: Commits
) -> None:
    """Refuse labels of masks that have changed since; of other classes, those who ask compare."""
    masks = open_masks(store)
    if masks.classes != tuple(made["classes"]):
        return
    if changed := units_of_other_masks(masks, unit_rows, commits):
        raise MismatchError(
            "the labels of a bank are of other masks than the store has now",
            where=f"bank {name!r} of {store.where}",
            found=f"changed masks in {counted(changed, 'unit')}",
            hint=f"fungi bank {quote(store.where)} --name {name}, as it was made, takes them over",
        )


def _unfinished(store: Store, name: str) -> StoreError:
    return StoreError(
        "a bank is not finished, or damaged",
        where=f"bank {name!r} of {store.where}",
        hint=f"fungi bank {quote(store.where)} --name {name}, as it was begun, continues",
    )
