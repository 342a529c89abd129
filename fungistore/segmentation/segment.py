"""`fungi segment`: masks of images, of the store or new, predicted from a memory bank."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.annotations.masks import open_masks
from fungistore.errors import FungiError, ItemError, UsageError
from fungistore.location import locate, uri_to_path
from fungistore.machine.context import DEFAULT, Context
from fungistore.modalities.modality import IMAGE
from fungistore.modalities.reading import read_item
from fungistore.searching.queries import ItemQuery, SampleQuery, identify
from fungistore.segmentation.banks import Bank, open_bank
from fungistore.segmentation.page import Panel, render_page, section
from fungistore.segmentation.pictures import (
    encoded_mask,
    is_replaceable,
    overlaid,
    palette,
    shrunk,
    side_by_side,
)
from fungistore.segmentation.predict import label_maps, largest_class
from fungistore.segmentation.predict_options import SegmentOptions
from fungistore.segmentation.refusals import refuse_few, refuse_other_classes
from fungistore.segmentation.scores import confusion_of, mask_scores
from fungistore.store.disk_errors import unwritable
from fungistore.store.durable import publish_bytes
from fungistore.store.masks import read_masks_record
from fungistore.store.store import Store

ODD = re.compile(r"[^\w.+-]")
LONGEST_NAME = 56  # characters of up to four bytes, where a file's name has room for 255
PICTURE = "-overlay"

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class SegmentedImage:
    """The predicted mask of one image.

    Attributes:
        input: the image's path, or the sample's id.
        row: of the sample, None for another image.
        mask: the file with it: an indexed PNG of the image's size, whose values are classes.
        picture: the file that shows the image, the mask over it, and the known mask over it.
        height, width: of the mask.
        shares: part of the pixels that is of each class, the largest first.
        miou: against the mask that the store has of the sample; None where it has none.
        pixel_accuracy: the same.
    """

    input: str
    row: int | None
    mask: str
    picture: str
    height: int
    width: int
    shares: dict[str, float]
    miou: float | None
    pixel_accuracy: float | None


@dataclass(frozen=True)
class SegmentResult:
    """Masks from one bank.

    Attributes:
        store: the store's directory.
        feature_set: of the bank.
        bank: its name.
        features: what it is made of.
        classes: by the values of the masks.
        k: neighbours of each patch.
        beta: the temperature.
        images: those that could be read, in their order.
        failed: for each other input, what went wrong.
        fingerprints: of what the bank was made from, by array name.
    """

    store: str
    feature_set: str
    bank: str
    features: tuple[str, ...]
    classes: tuple[str, ...]
    k: int
    beta: float
    images: tuple[SegmentedImage, ...]
    failed: dict[str, str]
    fingerprints: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class _Asked:
    """One image: its row in the store, what the model is given where that has no tokens of it,
    where it is, and what its files are called.
    """

    text: str
    row: int | None
    item: ItemQuery | None
    root: str
    uri: str
    name: str


def segment(
    store: str | Path,
    images: str | Path | Sequence[str | Path],
    options: SegmentOptions = SegmentOptions(),
    *,
    context: Context = DEFAULT,
) -> SegmentResult:
    """Predict masks of images from a memory bank, and write them with pictures of them.

    An image of the store, by its sample id or its path, has stored patches; others go through the
    model that made these, with the same transform. One image is in memory at a time.

    Args:
        store: the store's directory.
        images: sample ids, or paths of image files.
        options: which bank, how it predicts, and where the files go.
        context: its reporter is told what happens, its stop asked between images.

    Raises:
        UsageError: there is no such bank, no image, or a file would be written over another, or
            among the store's masks.
        MismatchError: the bank is of other classes than the masks, or the weights are others.
        StoreError: the store is damaged.
        FungiError: the only image cannot be used, or the disk is full.
        StoppedError: `context` asked for it.
    """
    opened = Store.open(store)
    if opened.modality.name != IMAGE:
        raise UsageError("masks are of images", where=opened.where, found=opened.modality.items)
    texts = [*dict.fromkeys(map(str, [images] if isinstance(images, str | Path) else images))]
    if not texts:
        raise UsageError("there are no images", expected="sample ids, or paths; - reads stdin")
    bank = open_bank(opened, options.bank, options.feature_set)
    refuse_few(bank, options)
    asked, errors = _asked(opened, texts)
    _refuse_overwriting(opened, asked, options)
    done: dict[str, SegmentedImage] = {}
    sections: dict[str, str] = {}
    drawing = _Drawing(opened, bank, options)
    for one, shares in _label_maps(opened, bank, asked, options, context):
        context.stop_if_asked()
        found = shares if isinstance(shares, FungiError) else drawing.draw(one, shares)
        if isinstance(found, FungiError):
            errors[one.text] = found
            continue
        done[one.text], panels = found
        if options.html is not None:
            sections[one.text] = section(done[one.text], panels, drawing.colours)
    if not done:
        raise next(errors[text] for text in texts if text in errors)
    result = SegmentResult(
        store=opened.where,
        feature_set=bank.feature_set,
        bank=bank.name,
        features=bank.tokens.features,
        classes=tuple(bank.classes),
        k=options.k,
        beta=options.beta,
        images=tuple(done[text] for text in texts if text in done),
        failed={text: errors[text].what for text in texts if text in errors},
        fingerprints=dict(bank.fingerprints),
    )
    if options.html is not None:
        page = render_page(result, [sections[text] for text in texts if text in sections])
        _publish(options.html, page.encode("utf-8", "replace"), f"--html {options.html}")
    return result


class _Drawing:
    """Makes the files of each image."""

    def __init__(self, store: Store, bank: Bank, options: SegmentOptions) -> None:
        self._modality, self._out = store.modality, options.out
        self._masks = open_masks(store)
        self._classes = tuple(bank.classes)
        refuse_other_classes(bank, self._masks)
        self._known = frozenset(self._masks.rows.tolist())
        colours = palette(len(self._classes)).tolist()
        self.colours = dict(zip(self._classes, colours, strict=True))

    def draw(self, one: _Asked, shares: Vectors) -> tuple[SegmentedImage, list[Panel]] | ItemError:
        """Write the mask and the picture of an image; returns what the page shows of it."""
        try:
            image = read_item(self._modality, one.root, one.uri)
        except ItemError as error:
            return error
        count, size = len(self._classes), image.shape[:2]
        said = largest_class(shares, *size)
        small = shrunk(image)
        panels = [("image", small), ("predicted", overlaid(small, said, count))]
        metrics: dict[str, float] = {}
        if one.row is not None and one.row in self._known:
            truth = self._masks.read(one.row)
            judged = said if truth.shape == size else largest_class(shares, *truth.shape)
            metrics = mask_scores(confusion_of(truth, judged, count)).metrics
            panels.append(("known", overlaid(small, truth, count)))
        mask, picture = _files(self._out, one.name)
        _publish(mask, encoded_mask(said, count), f"--out {self._out}")
        pixels = [pixels for _, pixels in panels]
        _publish(picture, side_by_side(pixels), f"--out {self._out}")
        share = np.bincount(said.ravel(), minlength=count) / said.size
        order = [label for label in np.argsort(-share, kind="stable").tolist() if share[label]]
        done = SegmentedImage(
            input=one.text,
            row=one.row,
            mask=str(mask),
            picture=str(picture),
            height=size[0],
            width=size[1],
            shares={self._classes[label]: float(share[label]) for label in order},
            miou=metrics.get("miou"),
            pixel_accuracy=metrics.get("pixel_accuracy"),
        )
        return done, [(name, self._modality.show(pixels, name)) for name, pixels in panels]


def _asked(store: Store, texts: Sequence[str]) -> tuple[list[_Asked], dict[str, FungiError]]:
    """Tell for each text which image it is; texts that mean none have an error instead."""
    found = dict(zip(texts, identify(store, texts), strict=True))
    errors = {text: one for text, one in found.items() if isinstance(one, FungiError)}
    rows = [one.row for one in found.values() if isinstance(one, SampleQuery)]
    samples = dict(zip(rows, store.samples.take(rows), strict=True))
    names: set[str] = set()
    asked = []
    for text, one in found.items():
        if isinstance(one, SampleQuery):
            root, uri = samples[one.row]["root"], samples[one.row]["uri"]
            asked.append(_Asked(text, one.row, None, root, uri, _free_name(text, names)))
        elif isinstance(one, ItemQuery):
            name = _free_name(text, names)
            asked.append(_Asked(text, one.row, one, one.root, one.uri, name))
    return asked, errors


def _free_name(text: str, taken: set[str]) -> str:
    """Return what an image's files are called: the end of its path, and a number if need be."""
    stem = ODD.sub("_", Path(text).stem).lstrip(".")[:LONGEST_NAME] or "image"
    name, number = stem, 1
    while taken & {name.lower(), (name + PICTURE).lower()}:  # some disks tell no cases apart
        number += 1
        name = f"{stem}-{number}"
    taken |= {name.lower(), (name + PICTURE).lower()}
    return name


def _files(out: Path, name: str) -> tuple[Path, Path]:
    return out / f"{name}.png", out / f"{name}{PICTURE}.png"


def _refuse_overwriting(store: Store, asked: Sequence[_Asked], options: SegmentOptions) -> None:
    """Refuse to write where an image is, or a file that is not of here, or known masks are."""
    record, out = read_masks_record(store.folder()), os.path.realpath(options.out)
    known = [os.path.realpath(uri_to_path(one)) for one in record.folders] if record else []
    if any(Path(out).is_relative_to(folder) for folder in known):
        raise UsageError(
            "the store's masks are there, and predicted ones would be taken for them",
            where=f"--out {options.out}",
            hint="write to another folder, such as --out predicted",
        )
    images = {os.path.realpath(locate(one.root, one.uri).path) for one in asked}
    files = [file for one in asked for file in _files(options.out, one.name)]
    for file in [*files, *filter(None, [options.html])]:
        if os.path.realpath(file) in images:
            raise UsageError(
                "a file would be written over an image",
                where=f"--html {file}" if file == options.html else f"--out {options.out}",
                found=file,
                hint="write to another folder, such as --out predicted",
            )
        if file != options.html and not is_replaceable(file):
            raise UsageError(
                "a file would be written over one that fungi segment has not made",
                where=f"--out {options.out}",
                found=file,
                hint="write to another folder, such as --out predicted",
            )


def _label_maps(
    store: Store,
    bank: Bank,
    asked: Sequence[_Asked],
    options: SegmentOptions,
    context: Context,
) -> Iterator[tuple[_Asked, Vectors | FungiError]]:
    """Yield the shares of the classes [h, w, c] in the tokens of each image, or why there are none.

    Those with stored tokens come first, in the order of their rows.
    """
    usable = bank.tokens.coverage().usable
    stored: dict[int, list[_Asked]] = {}
    new: list[tuple[_Asked, ItemQuery]] = []
    for one in asked:
        if one.row is not None and usable[one.row]:
            stored.setdefault(one.row, []).append(one)
        elif one.item is not None:
            new.append((one, one.item))
        else:
            yield one, _no_tokens(one)
    if stored:
        for numbers, tokens in bank.tokens.stream(np.array(sorted(stored), np.int64)):
            maps = label_maps(bank, tokens, options.k, options.beta)
            for row, shares in zip(numbers.tolist(), maps, strict=True):
                yield from ((one, shares) for one in stored[row])
    if new:
        from fungistore.extraction.replay import replay_extraction  # the model, for these alone

        replay = replay_extraction(
            store, bank.feature_set, bank.tokens.arrays, choice=options, context=context
        )
        features = replay.features([item for _, item in new], context)
        for (one, _), found in zip(new, features, strict=True):
            if isinstance(found, FungiError):
                yield one, found
                continue
            tokens = bank.tokens.joined({name: values[None] for name, values in found.items()})
            yield one, next(label_maps(bank, tokens, options.k, options.beta))


def _no_tokens(one: _Asked) -> FungiError:
    return FungiError(
        "a sample has no usable features",
        where=one.text,
        found="its image could not be read, or was not extracted yet",
        hint="fungi status counts such rows; fungi extract continues",
    )


def _publish(file: Path, content: bytes, flag: str) -> None:
    try:
        publish_bytes(file, content)
    except OSError as error:
        raise unwritable("a file cannot be written", flag, error) from error
