"""The files in which data sets list their images: text, CSV and MATLAB's."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from fungistore.errors import UsageError


def read_text(path: Path) -> str:
    """Return a list's text, whatever its line ends and with or without a byte order mark.

    Raises:
        UsageError: it is not UTF-8, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("a list cannot be read", where=path, found=error) from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list that are not blank, without blanks around them."""
    return [line for line in map(str.strip, read_text(path).split("\n")) if line]


def read_fields(path: Path, count: int) -> list[list[str]]:
    """Return the lines of a list as so many fields each; the last one may have blanks in it.

    Raises:
        UsageError: a line has fewer.
    """
    rows = [line.split(None, count - 1) for line in read_lines(path)]
    for number, row in enumerate(rows, 1):
        if len(row) != count:
            raise UsageError(
                "a line of a list is cut",
                where=f"{path}, line {number} of those that are not blank",
                expected=f"{count} fields",
                found=" ".join(row),
            )
    return rows


def read_pairs(path: Path) -> dict[str, str]:
    """Return a list of keys and values, in its order."""
    return {key: value for key, value in read_fields(path, 2)}


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header line.

    Raises:
        UsageError: it lacks one of the columns, or a row is cut.
    """
    try:
        rows = list(csv.DictReader(StringIO(read_text(path)), skipinitialspace=True))
    except csv.Error as error:
        raise UsageError("a table cannot be read", where=path, found=error) from error
    for number, row in enumerate(rows or [{}], 1):
        lacking = [name for name in columns if row.get(name) is None]
        if lacking:
            raise UsageError(
                "a table lacks a column",
                where=f"{path}, row {number}",
                expected=", ".join(columns),
                found=", ".join(name for name in row if isinstance(name, str)) or "nothing",
            )
    return [{name: row[name].strip() for name in columns} for row in rows]


def read_mat(file: Path | BytesIO, variable: str, where: object = None) -> Any:
    """Return a variable of a MATLAB file as an array of one dimension; fields are its columns.

    Raises:
        UsageError: it is no such file, or has no such variable.
    """
    import numpy as np
    from scipy.io import loadmat

    try:
        return np.atleast_1d(loadmat(file, squeeze_me=True)[variable])
    except Exception as error:  # a damaged file makes it raise nearly anything
        raise UsageError(
            "a MATLAB file cannot be read",
            where=where or file,
            expected=f"the variable {variable}",
            found=f"{type(error).__name__}: {error}",
        ) from error


def readable(name: str) -> str:
    """Return a class name that was spelled for file systems as words."""
    return name.replace("_", " ")


def told_apart(names: Mapping[str, str]) -> dict[str, str]:
    """Return class names by their keys; those that two classes share get their keys behind."""
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else f"{name} ({key})" for key, name in names.items()}
