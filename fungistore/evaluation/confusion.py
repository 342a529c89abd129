"""The picture of a confusion matrix: which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fungistore.evaluation.plots import check_plot, save_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL_INCHES, MARGIN_INCHES, MOST_INCHES = 0.42, 2.2, 24.0
MOST_NUMBERED = 30  # classes; with more, cells are too small for numbers


def save_confusion(classes: Sequence[str], table: Sequence[Sequence[int]], path: Path) -> None:
    """Write a confusion matrix as PNG or SVG, by the file's name.

    Args:
        classes: their names.
        table: rows of each true class (first) by predicted class.
        path: the file.

    Raises:
        UsageError: the format is another, matplotlib is missing, or the file cannot be written
            there.
        FungiError: the disk is full.
    """
    check_plot(path)
    save_figure(draw_confusion(classes, table), path)


def draw_confusion(classes: Sequence[str], table: Sequence[Sequence[int]]) -> Figure:
    """Return a figure: colours are parts of the true class, numbers are rows."""
    from matplotlib.figure import Figure

    counts = np.array(table)
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(MARGIN_INCHES + CELL_INCHES * len(classes), MOST_INCHES)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(parts, vmin=0, vmax=1, cmap="Blues")
    if len(classes) <= MOST_NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if parts[row, column] > 0.6 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    names = [short_name(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 5 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure
