"""Tables of colours: which class a colour of a mask stands for."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError, did_you_mean
from fungistore.sources.sets.voc import VOC_CLASSES

VOID = 65_535  # in place of a class: a pixel that is not judged
VOC_VOID = 255
NAMED = ("voc",)
VOID_NAMES = ("void", "ignore")  # of a table: not judged, unless --void says otherwise
Colour = tuple[int, int, int, int]  # red, green, blue, index of the class
BINARY: tuple[Colour, ...] = ((0, 0, 0, 0), (255, 255, 255, 1))
EXPECTED = "a line a class: name red green blue (0 to 255 each); as text, .csv or .json"
_NUMBERS = re.compile(r"[\s,;]+")


def voc_colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a class in Pascal VOC's palette: its bits, spread over the channels."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    red, green, blue = channels
    return red, green, blue


def named_colours(name: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Return the classes and colours of Pascal VOC, its void last."""
    names = [*VOC_CLASSES, "void"]
    numbers = [*range(len(VOC_CLASSES)), VOC_VOID]
    return [(one, voc_colour(number)) for one, number in zip(names, numbers, strict=True)]


def read_colours(given: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Return the classes of a table and their colours, in its order.

    Args:
        given: a file, or "voc". A line is a name and three numbers, in either order, with blanks
            or commas between; JSON is {name: [r, g, b]}, or a list of tables of a name and a
            color, or of r, g and b.

    Raises:
        UsageError: there is no such file, or it is no such table.
    """
    if given in NAMED:
        return named_colours(given)
    path = Path(given).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or error
        hint = did_you_mean(given, NAMED) or f"{' or '.join(NAMED)} is known by name"
        raise UsageError("no table of colours", where=given, found=found, hint=hint) from error
    try:
        rows = list(_of_json(json.loads(text)) if path.suffix == ".json" else _of_lines(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unusable(given, error) from error
    owners: dict[tuple[int, int, int], str] = {}
    for name, colour in rows:
        if owners.setdefault(colour, name) != name:
            raise _unusable(given, f"{colour} is {owners[colour]!r}, and {name!r} too")
    if not rows:
        raise _unusable(given, "nothing")
    return rows


def indexed(
    rows: Iterable[tuple[str, tuple[int, int, int]]], void: str | int | None
) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Return the classes of a table, and its colours with their indices.

    Names that are there twice are one class of two colours.

    Args:
        rows: names and colours.
        void: the name, or the number in the order of names, of what is not judged.
    """
    names = list(dict.fromkeys(name for name, _ in rows))
    out = names[void] if isinstance(void, int) and void < len(names) else void
    classes = tuple(name for name in names if name != out)
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, tuple((*colour, numbers.get(name, VOID)) for name, colour in rows)


def lookup(colours: Iterable[Colour], pixels: NDArray[np.uint8]) -> tuple[Any, Any]:
    """Return the class of each pixel of [..., 3], and which pixels have a colour of the table."""
    table = np.array(sorted((r << 16 | g << 8 | b, index) for r, g, b, index in colours))
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    codes = red << 16 | green << 8 | blue
    places = np.searchsorted(table[:, 0], codes).clip(max=len(table) - 1)
    return table[places, 1].astype(np.uint16), table[places, 0] == codes


def _of_lines(text: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and {"name", "r", "g", "b"} <= {name.strip() for name in lines[0].split(",")}:
        table = csv.DictReader(lines, skipinitialspace=True)
        yield from (_row(one["name"].strip(), (one["r"], one["g"], one["b"])) for one in table)
        return
    for number, line in enumerate(lines):
        cells = next(csv.reader([line])) if "," in line else _NUMBERS.split(line)
        cells = [cell.strip() for cell in cells]
        numbers = [cell.isdecimal() for cell in cells]
        if len(cells) > 3 and all(numbers[-3:]) and (len(cells) == 4 or not all(numbers[:3])):
            yield _row(" ".join(cells[:-3]), cells[-3:])
        elif len(cells) > 3 and all(numbers[:3]):
            yield _row(" ".join(cells[3:]), cells[:3])
        elif number:  # the first line may be a header
            raise ValueError(line)


def _of_json(document: Any) -> Iterator[tuple[str, tuple[int, int, int]]]:
    if isinstance(document, dict):
        yield from (_row(name, colour) for name, colour in document.items())
        return
    for one in document:
        colour = one.get("color", one.get("colour", one.get("rgb")))
        yield _row(one["name"], colour or [one["r"], one["g"], one["b"]])


def _row(name: Any, colour: Any) -> tuple[str, tuple[int, int, int]]:
    red, green, blue = map(int, colour)
    if not (isinstance(name, str) and all(0 <= one <= 255 for one in (red, green, blue))):
        raise ValueError(f"{name} {red} {green} {blue}")
    return name, (red, green, blue)


def _unusable(given: str, found: object) -> UsageError:
    return UsageError(
        "the table of colours cannot be used", where=given, expected=EXPECTED, found=found
    )
