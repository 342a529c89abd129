"""What a store's table says of its samples: the line that tells whether a source was understood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fungistore.errors import StoreError
from fungistore.quantities import counted
from fungistore.sources.labels import alike_names
from fungistore.sources.sample import ignored_by
from fungistore.store.removed import read_removed
from fungistore.store.store import Store

SPLITS_FIRST = ("train", "val", "test")
KINDS_SHOWN = 5
ALIKE_SHOWN = 3
# how programs write that there is nothing, without case
NOTHING = frozenset({"nan", "null", "<na>", "n/a", "#n/a"})


@dataclass(frozen=True)
class Understood:
    """What is known of a table's samples whose files are there.

    Attributes:
        items: what they are: "images"; of a single one, "image".
        samples: how many there are.
        classes: how many labels they have.
        unlabelled: samples without a label.
        splits: samples of each split; "" counts those without one.
        removed: further samples, whose file is gone from the source.
        ignored: what the source has and the table has not, by word: {".heic": 2}.
        alike: classes whose names differ only in case, blanks or the spelling of a letter.
        nothing: classes whose names are words for an empty cell, such as "nan".
    """

    items: str
    samples: int
    classes: int
    unlabelled: int
    splits: Mapping[str, int]
    removed: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)
    alike: tuple[tuple[str, ...], ...] = ()
    nothing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        said = [f"{self.samples} {self.items}"]
        said.append(counted(self.classes, "class", "classes") if self.classes else "no labels")
        if self.classes and self.unlabelled:
            said.append(f"{self.unlabelled} without a label")
        if self.splits.keys() - {""}:
            parts = [f"{name or 'none'} {count}" for name, count in self.splits.items()]
            said.append(f"splits {' / '.join(parts)}")
        if self.removed:
            said.append(f"{self.removed} gone from the source")
        if self.ignored:
            said.append(f"ignored: {said_ignored(self.ignored)}")
        return ", ".join(said)

    def warnings(self) -> list[str]:
        """Return what is understood, and may not be meant."""
        said = []
        if self.nothing:
            names = " and ".join(map(repr, self.nothing))
            said.append(
                f"warning: {names} is a class, though the word may stand for no label: empty cells "
                "have none"
            )
        if not self.alike:
            return said
        groups = [" and ".join(map(repr, group)) for group in self.alike[:ALIKE_SHOWN]]
        groups += ["..."] * (len(self.alike) > ALIKE_SHOWN)
        return [
            *said,
            f"warning: classes whose names look the same are several: {'; '.join(groups)}; they "
            "differ in case, blanks or letters alone",
        ]


def understood(store: Store, source: object = None) -> Understood:
    """Count what the table says of its samples, and what a source has left out of it.

    Raises:
        StoreError: samples have labels that `store.json` has no names for.
    """
    is_there = np.ones(len(store.samples), bool)
    is_there[read_removed(store.folder())] = False
    labels = store.samples.labels()[is_there]
    counts = np.bincount(labels[labels >= 0], minlength=len(store.manifest.labels))
    known = store.manifest.labels
    if len(counts) > len(known):
        raise StoreError(
            "samples have labels without a name",
            where=store.where,
            expected=f"labels below {len(known)}, the number of class names in store.json",
            found=len(counts) - 1,
            hint="fungi label gives labels anew; fungi verify says what else is damaged",
        )
    names = [known[number] for number in np.flatnonzero(counts)]
    return Understood(
        items=store.modality.item if len(labels) == 1 else store.modality.items,
        samples=len(labels),
        classes=len(names),
        unlabelled=int((labels < 0).sum()),
        splits=count_splits(store, is_there),
        removed=int((~is_there).sum()),
        ignored=ignored_by(source),
        alike=tuple(alike_names(names)),
        nothing=tuple(name for name in names if name.casefold() in NOTHING),
    )


def count_splits(store: Store, chosen: NDArray[np.bool_] | None = None) -> dict[str, int]:
    """Return the number of samples of each split, the usual ones first; "" counts the others.

    Args:
        store: whose samples are counted.
        chosen: a mask over them; default: all.
    """
    counts: Counter[str] = Counter()
    first = 0
    for batch in store.samples.batches("split"):
        column = batch["split"].dictionary_decode()
        if chosen is not None:
            column = column.filter(pa.array(chosen[first : first + len(batch)]))
        first += len(batch)
        for found in pc.value_counts(column).to_pylist():
            counts[found["values"] or ""] += found["counts"]
    order = {name: place for place, name in enumerate(SPLITS_FIRST)}
    names = sorted(counts, key=lambda name: (not name, order.get(name, len(order)), name))
    return {name: counts[name] for name in names}


def said_ignored(ignored: Mapping[str, int]) -> str:
    """Return what is left out in a few words, the most frequent first."""
    kinds = sorted(ignored.items(), key=lambda kind: (-kind[1], kind[0]))
    said = [f"{count} {word}" for word, count in kinds[:KINDS_SHOWN]]
    return ", ".join(said + ["..."] * (len(kinds) > KINDS_SHOWN))
