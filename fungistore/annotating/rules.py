"""What the values of masks mean: what was asked for, what the store has, what the source says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungistore.annotating.options import AnnotateOptions
from fungistore.annotations.files import (
    MaskError,
    MaskRules,
    Place,
    load_mask,
    values_of,
)
from fungistore.annotations.palettes import (
    BINARY,
    VOC_VOID,
    VOID,
    VOID_NAMES,
    Colour,
    indexed,
    read_colours,
)
from fungistore.choices import Orientation
from fungistore.errors import UsageError
from fungistore.settings import refusal
from fungistore.sources.sample import MaskWords
from fungistore.store.masks import MasksRecord

LOOKED_AT = 16  # masks, to tell whether 255 is void or the only class


@dataclass(frozen=True)
class Meaning:
    """What the values of a store's masks mean.

    Attributes:
        classes: names by index; None where they are numbers.
        void: the value that is not judged.
        colours: where colours stand for classes.
        orientation: which pixels of an image the masks belong to.
        remark: what was decided by a look at the masks.
    """

    classes: tuple[str, ...] | None
    void: int | None
    colours: tuple[Colour, ...]
    orientation: Orientation
    remark: str | None = None

    @property
    def rules(self) -> MaskRules:
        """What reads a mask."""
        count = None if self.classes is None else len(self.classes)
        return MaskRules(count, self.void, self.colours, self.orientation)

    def is_of(self, record: MasksRecord) -> bool:
        """Whether masks that the store has were read so; names of classes may be others."""
        count = len(record.classes) if record.named else None
        return (count, record.void, record.colours, record.orientation) == (
            self.rules.count,
            self.void,
            self.colours,
            self.orientation,
        )


def decide(
    options: AnnotateOptions,
    record: MasksRecord | None,
    words: MaskWords | None,
    some: Sequence[Place],
) -> Meaning:
    """Return what masks mean.

    Args:
        options: what was asked for.
        record: of the masks that the store has, which decides what was not asked for.
        words: what the source says; without a record.
        some: masks to look at where nothing else tells.

    Raises:
        UsageError: names, colours and void do not go together.
    """
    classes = class_names(options.classes) if options.classes else None
    stored = record.orientation if record else "upright"
    orientation = options.orientation or ("stored" if stored == "stored" else "upright")
    if options.colors:
        return _by_colours(options.colors, options.void, classes, orientation)
    if record is not None:
        classes = classes or (record.classes if record.named else None)
        if options.void is None:
            return Meaning(classes, record.void, record.colours, orientation)
        if record.colours not in ((), BINARY):
            options.refuse("void", "--colors too, whose colours they are", options.void)
        return Meaning(classes, _value(options, classes), (), orientation)
    if classes is None and words is not None:
        classes = words.classes
    if options.void is not None:
        return Meaning(classes, _value(options, classes), (), orientation)
    if words is not None:
        return Meaning(classes, words.void, (), orientation)
    return _looked_at(classes, some, orientation)


def class_names(given: Sequence[str]) -> tuple[str, ...]:
    """Return names of classes, of a file's lines where one was given.

    Raises:
        UsageError: the file cannot be read, or a name is there twice.
    """
    path = Path(given[0]).expanduser()
    if len(given) == 1 and (path.is_file() or path.suffix in (".txt", ".csv", ".names")):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            found = getattr(error, "strerror", None) or error
            raise UsageError("names of classes cannot be read", where=path, found=found) from error
        given = [line.strip() for line in lines if line.strip()]
    repeated = sorted({name for name in given if list(given).count(name) > 1})
    if repeated or not given or len(given) >= VOID:
        expected = f"the name of each class once, of fewer than {VOID}"
        raise refusal("--classes", expected, ", ".join(repeated) or len(given))
    return tuple(given)


def _value(options: AnnotateOptions, classes: Sequence[str] | None) -> int | None:
    """Return the value that --void means."""
    void = options.void
    if void == "none":
        return None
    if isinstance(void, str) and void.isdecimal():
        void = int(void)
    if isinstance(void, str) and classes and void in classes:
        return classes.index(void)
    if not isinstance(void, int) or not 0 <= void <= VOID:
        options.refuse("void", f"a value from 0 to {VOID}, the name of a class, or none", void)
    return void


def _by_colours(
    colors: str, void: int | str | None, classes: tuple[str, ...] | None, orientation: Orientation
) -> Meaning:
    rows = read_colours(colors)
    names = list(dict.fromkeys(name for name, _ in rows))
    if isinstance(void, str) and void.isdecimal():
        void = int(void)
    if void is None:
        void = next((name for name in names if name.casefold() in VOID_NAMES), None)
    elif void not in ("none", *names, *range(len(names))):
        raise refusal("--void", f"none, or one of {', '.join(names)}", void)
    found, colours = indexed(rows, void)
    if classes is not None and len(classes) != len(found):
        raise refusal("--classes", f"{len(found)} names, as the table has colours", len(classes))
    return Meaning(classes or found, None, colours, orientation)


def _looked_at(
    classes: tuple[str, ...] | None, some: Sequence[Place], orientation: Orientation
) -> Meaning:
    """Return what a look at some masks suggests: 255 is void, unless there is nothing but 0 and it.

    Of 16 bits, it is 65535.
    """
    values: set[int] = set()
    is_wide = False
    for place in some:
        try:
            image = load_mask(place)
            values |= set(np.unique(values_of(image)).tolist())
        except MaskError:
            continue
        is_wide |= image.mode.startswith("I")
    if values and values <= {0, VOC_VOID} and VOC_VOID in values and _is_pair(classes):
        said = "the masks' values are 0 and 255: they are classes 0 and 1 (--void 255: not judged)"
        return Meaning(classes or ("0", "1"), None, BINARY, orientation, said)
    return Meaning(classes, VOID if is_wide else VOC_VOID, (), orientation)


def _is_pair(classes: Sequence[str] | None) -> bool:
    return classes is None or len(classes) == len(BINARY)
