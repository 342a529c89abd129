"""`fungi predict`: labels of new items, or of rows of the store, by a trained head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.errors import FungiError, UsageError
from fungistore.extraction.replay import replay_extraction
from fungistore.fingerprint import fingerprint
from fungistore.loff.flips import flips_of
from fungistore.loff.options import PredictOptions
from fungistore.loff.scoring import chances_of, mean_chances, probabilities
from fungistore.loff.stored import find_heads, open_head
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.cores import one_thread_each
from fungistore.machine.device import resolve_device
from fungistore.matrices.cells import pooled
from fungistore.searching.queries import ItemQuery, identify_items
from fungistore.settings import refusal
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

BATCH_ROWS = 64
CLASSES_SHOWN = 5  # in a message


@dataclass(frozen=True)
class Prediction:
    """What a head says of one item.

    Attributes:
        input: the item's path, or the sample's id.
        row: of the sample, None for another item.
        label: name of the most likely class.
        probabilities: of all classes, by name.
    """

    input: str
    row: int | None
    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class PredictResult:
    """Predictions of one head, or of the mean of several.

    Attributes:
        store: the store's directory.
        head: its name; of an ensemble, the pattern that was asked for.
        predictions: of the inputs that could be read, in their order.
        failed: for each other input, what went wrong.
        fingerprint: of the head; of an ensemble, of its heads'.
        heads: whose probabilities were averaged.
        views: of each feature map that were averaged over: itself, and flips.
    """

    store: str
    head: str
    predictions: tuple[Prediction, ...]
    failed: dict[str, str]
    fingerprint: str
    heads: tuple[str, ...]
    views: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def predict_images(
    store: str | Path,
    images: str | Path | Sequence[str | Path],
    options: PredictOptions = PredictOptions(),
    *,
    context: Context = DEFAULT,
) -> PredictResult:
    """Classify new items, such as image files: the store's own extraction, then the head.

    Args:
        store: the store's directory.
        images: paths of image files, or what else means an item of the store's kind.
        options: which head, or heads to average, and where the backbone runs.
        context: its reporter is told what happens, its stop asked between batches.

    Raises:
        UsageError: there is no such head, no item, or the backbone's weights are gone.
        MismatchError: the weights, or the features of the store, are others.
    """
    opened = Store.open(store)
    asked = _Asked(opened, options)
    texts = list(map(str, [images] if isinstance(images, str | Path) else images))
    found = identify_items(opened, texts)
    items = [one for one in found if isinstance(one, ItemQuery)]
    failed = {
        text: str(one.what)
        for text, one in zip(texts, found, strict=True)
        if isinstance(one, FungiError)
    }
    predictions = []
    if items:
        replay = replay_extraction(
            opened, asked.feature_set, asked.arrays, choice=options, context=context
        )
        for item, values in zip(items, replay.features(items, context), strict=True):
            if isinstance(values, FungiError):
                failed[item.text] = values.what
                continue
            predictions.append(asked.prediction(item.text, None, asked.of_item(values)))
    return asked.result(store, predictions, failed)


def predict_rows(
    store: str | Path,
    rows: str | Sequence[int],
    options: PredictOptions = PredictOptions(),
) -> PredictResult:
    """Classify rows of the store, without its backbone.

    Args:
        store: the store's directory.
        rows: row numbers, or text such as "0-9,12".
        options: which head, or heads to average, and where they run.

    Raises:
        UsageError: there is no such head, or no such row.
        StoreError: a row is not there yet, or damaged.
    """
    opened = Store.open(store)
    asked = _Asked(opened, options)
    numbers = _numbers(rows) if isinstance(rows, str) else rows
    wanted = np.unique(np.array(numbers, np.int64))
    count = min(array.rows for array in asked.arrays.values())
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= count:
        raise UsageError(
            "no such row",
            where="--rows",
            expected=f"numbers from 0 to {count - 1}",
            found=", ".join(map(str, numbers[:5])) or "none",
            hint="rows are numbered from 0, as in the table that fungi export writes",
        )
    said = asked.of_rows(wanted)
    failed, predictions = {}, []
    for row, sample_id, chances in zip(wanted.tolist(), _ids(opened, wanted), said, strict=True):
        if np.isnan(chances).any():
            failed[sample_id] = "the sample has no usable features"
        else:
            predictions.append(asked.prediction(sample_id, row, chances))
    return asked.result(store, predictions, failed)


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    try:
        for word in text.split(","):
            first, _, last = word.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise refusal("--rows", "row numbers such as 0-9,12", text) from error
    return found


class _Asked:
    """The heads that are asked, each on feature maps as they are and flipped."""

    def __init__(self, store: Store, options: PredictOptions) -> None:
        self.feature_set, names = find_heads(store, options.head, options.feature_set)
        if len(names) > 1 and not options.ensemble:
            raise UsageError(
                "which head?",
                where="--head",
                expected="one",
                found=", ".join(names),
                hint="--ensemble averages what they say",
            )
        self._name = names[0] if len(names) == 1 else str(options.head)
        self._place = resolve_device(options.device)
        self._heads = [open_head(store, self.feature_set, name) for name in names]
        self._flips = {one.name: flips_of(options.tta, one) for one in self._heads}
        self._classes = self._heads[0].classes
        for one in self._heads:
            one.head.to(self._place)
            if one.classes != self._classes:
                raise UsageError(
                    "heads of other classes are no ensemble",
                    where=f"{self._heads[0].name} and {one.name}",
                    expected=", ".join(self._classes[:CLASSES_SHOWN]),
                    found=", ".join(one.classes[:CLASSES_SHOWN]),
                    hint="name heads of the same classes with --head",
                )

    @property
    def arrays(self) -> dict[str, UnitArray]:
        """All that the heads read, by feature."""
        return {name: array for one in self._heads for name, array in one.arrays.items()}

    @torch.no_grad()
    def of_item(self, values: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the probabilities [classes] of one item, computed as those of rows are."""
        each = []
        for one in self._heads:
            kept = {
                name: torch.from_numpy(values[name].astype(array.array.dtype))[None].to(self._place)
                for name, array in one.arrays.items()
            }
            beside = None if one.embeddings is None else kept["embeddings"]
            inputs = (pooled(kept[one.head.spec.reads], one.pool), beside)
            with one_thread_each(self._place):
                said = chances_of(one.head, inputs, one.dtype, self._flips[one.name])
            each.append(said[0].cpu().numpy())
        return mean_chances(each)

    def of_rows(self, rows: Rows) -> NDArray[np.float32]:
        """Return the probabilities [n, classes] of rows of the store; NaN where they have none."""
        each = []
        for one in self._heads:
            loader = one.loader(rows, BATCH_ROWS, self._place)
            flips = self._flips[one.name]
            each.append(
                probabilities(one.head, loader, pool=one.pool, dtype=one.dtype, flips=flips)
            )
        return mean_chances(each)

    def prediction(self, text: str, row: int | None, chances: NDArray[np.float32]) -> Prediction:
        """Return what was said of an item."""
        by_name = dict(zip(self._classes, chances.tolist(), strict=True))
        return Prediction(text, row, self._classes[int(chances.argmax())], by_name)

    def result(
        self, store: str | Path, predictions: list[Prediction], failed: dict[str, str]
    ) -> PredictResult:
        """Return all that was said."""
        prints = {one.name: one.fingerprint for one in self._heads}
        first = self._heads[0]
        return PredictResult(
            store=str(store),
            head=self._name,
            predictions=tuple(predictions),
            failed=failed,
            fingerprint=first.fingerprint if len(prints) == 1 else fingerprint(prints),
            heads=tuple(prints),
            views=len(self._flips[first.name]),
        )


def _ids(store: Store, rows: NDArray[np.int64]) -> Iterator[str]:
    """Yield the sample ids of ascending rows."""
    first, place = 0, 0
    for batch in store.samples.batches("id"):
        stop = first + len(batch)
        while place < len(rows) and rows[place] < stop:
            yield batch["id"][int(rows[place]) - first].as_py()
            place += 1
        first = stop
