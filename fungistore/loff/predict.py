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
from fungistore.loff.options import PredictOptions
from fungistore.loff.scoring import probabilities
from fungistore.loff.stored import StoredHead, find_heads, open_head
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.device import resolve_device
from fungistore.matrices.cells import pooled
from fungistore.searching.queries import ItemQuery, identify_items
from fungistore.settings import refusal
from fungistore.store.store import Store

BATCH_ROWS = 64


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
    """Predictions of one head.

    Attributes:
        store: the store's directory.
        head: its name.
        predictions: of the inputs that could be read, in their order.
        failed: for each other input, what went wrong.
        fingerprint: of the head.
    """

    store: str
    head: str
    predictions: tuple[Prediction, ...]
    failed: dict[str, str]
    fingerprint: str

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
        options: which head, and where the backbone runs.
        context: its reporter is told what happens, its stop asked between batches.

    Raises:
        UsageError: there is no such head, no item, or the backbone's weights are gone.
        MismatchError: the weights, or the features of the store, are others.
    """
    opened, stored = _open(store, options)
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
            opened,
            stored.feature_set,
            stored.arrays,
            choice=options,
            context=context,
        )
        features = replay.features(items, context)
        stored.head.to(resolve_device(options.device))
        for item, values in zip(items, features, strict=True):
            if isinstance(values, FungiError):
                failed[item.text] = values.what
                continue
            said = _classify(stored, values)
            predictions.append(_prediction(stored, item.text, None, said))
    return _result(store, stored, predictions, failed)


def predict_rows(
    store: str | Path,
    rows: str | Sequence[int],
    options: PredictOptions = PredictOptions(),
) -> PredictResult:
    """Classify rows of the store, without its backbone.

    Args:
        store: the store's directory.
        rows: row numbers, or text such as "0-9,12".
        options: which head, and where it runs.

    Raises:
        UsageError: there is no such head, or no such row.
        StoreError: a row is not there yet, or damaged.
    """
    opened, stored = _open(store, options)
    numbers = _numbers(rows) if isinstance(rows, str) else rows
    wanted = np.unique(np.array(numbers, np.int64))
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= stored.array.rows:
        raise UsageError(
            "no such row",
            where="--rows",
            expected=f"numbers from 0 to {stored.array.rows - 1}",
            found=", ".join(map(str, numbers[:5])) or "none",
        )
    place = resolve_device(options.device)
    loader = stored.loader(wanted, BATCH_ROWS, place)
    stored.head.to(place)
    said = probabilities(stored.head, loader, pool=stored.pool, dtype=stored.dtype)
    failed, predictions = {}, []
    for row, sample_id, chances in zip(wanted.tolist(), _ids(opened, wanted), said, strict=True):
        if np.isnan(chances).any():
            failed[sample_id] = "the sample has no usable features"
        else:
            predictions.append(_prediction(stored, sample_id, row, chances))
    return _result(store, stored, predictions, failed)


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    try:
        for word in text.split(","):
            first, _, last = word.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise refusal("--rows", "row numbers such as 0-9,12", text) from error
    return found


def _open(store: str | Path, options: PredictOptions) -> tuple[Store, StoredHead]:
    opened = Store.open(store)
    chosen, names = find_heads(opened, options.head, options.feature_set)
    if len(names) > 1:
        raise UsageError("which head?", where="--head", expected="one", found=", ".join(names))
    return opened, open_head(opened, chosen, names[0])


@torch.no_grad()
def _classify(stored: StoredHead, values: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the probabilities [classes] of one item's features, as scored rows are computed."""
    device = next(stored.head.parameters()).device
    first, *others = [
        torch.from_numpy(values[feature].astype(array.array.dtype))[None].to(device)
        for feature, array in stored.arrays.items()
    ]
    tokens = pooled(first, stored.pool)
    with torch.autocast(device.type, torch.bfloat16, stored.dtype == torch.bfloat16):
        logits = stored.head(tokens, *others)
    chances: NDArray[np.float32] = logits.float().softmax(dim=1)[0].cpu().numpy()
    return chances


def _prediction(
    stored: StoredHead, text: str, row: int | None, chances: NDArray[np.float32]
) -> Prediction:
    names = stored.classes
    by_name = dict(zip(names, chances.tolist(), strict=True))
    return Prediction(text, row, names[int(chances.argmax())], by_name)


def _result(
    store: str | Path,
    stored: StoredHead,
    predictions: list[Prediction],
    failed: dict[str, str],
) -> PredictResult:
    return PredictResult(str(store), stored.name, tuple(predictions), failed, stored.fingerprint)


def _ids(store: Store, rows: NDArray[np.int64]) -> Iterator[str]:
    """Yield the sample ids of ascending rows."""
    first, place = 0, 0
    for batch in store.samples.batches("id"):
        stop = first + len(batch)
        while place < len(rows) and rows[place] < stop:
            yield batch["id"][int(rows[place]) - first].as_py()
            place += 1
        first = stop
