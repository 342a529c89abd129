"""Figures of a comparison: the CKA of blocks, and the accuracy of classes (FUNGI, figures 2, 3).

Matplotlib is an optional extra; figures are made without pyplot, so no global state is touched.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fungistore.errors import UsageError
from fungistore.extras import install_command
from fungistore.store.disk_errors import unwritable
from fungistore.store.durable import publish_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fungistore.evaluation.compare import ClassDifference, Comparison

FORMATS = ("png", "svg")
MOST_BARS = 120  # more cannot be read: the middle of the list is left out
BARS_IN_COLUMN, FEWEST_BARS = 40, 5  # FEWEST_BARS: the room that a column has at least
BETTER, WORSE, SAME = "#2a7f62", "#c05746", "#8a8a8a"
CKA_INCHES, COLUMN_INCHES = 4.6, (6.2, 4.4)  # width of the panels; of one column, of several
BAR_INCHES = 0.17  # height of a bar where there are many
NAME_LENGTH = 32
DPI = 160


def check_plot(path: Path) -> None:
    """Refuse a plot that could not be saved, before any work is done for it.

    Raises:
        UsageError: the file is neither .png nor .svg, or matplotlib is missing.
    """
    if path.suffix.lstrip(".").lower() not in FORMATS:
        raise UsageError(
            "a plot cannot have this format",
            where=path,
            expected=" or ".join(f".{name}" for name in FORMATS),
            hint=f"--plot {path.stem or 'plot'}.png",
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "plots need matplotlib",
            found=error,
            hint=install_command("plot", "matplotlib"),
        ) from error


def save_plot(comparison: Comparison, path: Path) -> None:
    """Write both panels of a comparison as PNG or SVG, by the file's name.

    Raises:
        UsageError: as in `check_plot`, or the file cannot be written there.
        FungiError: the disk is full.
    """
    check_plot(path)
    save_figure(draw_comparison(comparison), path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the file's name.

    Raises:
        UsageError: the file cannot be written there.
        FungiError: the disk is full.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format=path.suffix.lstrip(".").lower(), dpi=DPI)
    try:
        publish_bytes(path, stream.getvalue())
    except OSError as error:
        raise unwritable("the plot cannot be written", path, error) from error


def draw_comparison(comparison: Comparison) -> Figure:
    """Return a figure with the CKA of every two blocks, and a bar for each class."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = _shown(comparison.classes)
    columns = -(-len(shown) // BARS_IN_COLUMN)
    rows = -(-len(shown) // columns)
    column_inches = COLUMN_INCHES[0] if columns == 1 else COLUMN_INCHES[1]
    figure = Figure(
        figsize=(CKA_INCHES + columns * column_inches, max(CKA_INCHES, BAR_INCHES * rows + 1.4)),
        layout=ConstrainedLayoutEngine(w_pad=0.12),
    )
    widths = [CKA_INCHES, *[column_inches] * columns]
    left, *others = figure.subplots(1, 1 + columns, width_ratios=widths)
    _draw_cka(left, comparison.cka.features, comparison.cka.matrix)
    left.set_anchor("N")
    low, high = _limits(comparison.classes)
    for column, axes in enumerate(others):
        _draw_classes(axes, shown[column * rows : (column + 1) * rows], max(rows, FEWEST_BARS))
        axes.set_xlim(low, high)
    before, after = ("+".join(score.features) for score in comparison.scores)
    others[0].set_title(f"{after} minus {before}, by class", fontsize=11, loc="left")
    return figure


def _draw_cka(axes: Axes, names: Sequence[str], matrix: Sequence[Sequence[float]]) -> None:
    axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            colour = "white" if value < 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("linear CKA of feature blocks", fontsize=11, loc="left")


def _draw_classes(axes: Axes, classes: Sequence[ClassDifference | None], room: int) -> None:
    places = [place for place, one in enumerate(classes) if one is not None]
    shown = [one for one in classes if one is not None]
    points = [100 * one.difference for one in shown]
    colours = [BETTER if p > 0 else WORSE if p < 0 else SAME for p in points]
    axes.barh(places, points, color=colours, height=0.7)
    size = 10 if room <= 20 else 7
    for place, value in zip(places, points, strict=True):
        axes.annotate(
            f"{value:+.1f}" if value else "0",
            (value, place),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=size,
        )
    axes.axvline(0, color="black", linewidth=0.8)
    names = ["..." if one is None else short_name(one.name) for one in classes]
    axes.set_yticks(range(len(classes)), names, fontsize=size)
    axes.set_ylim(room - 0.4, -0.6)  # the best on top
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("difference of accuracy (points)")


def _limits(classes: Sequence[ClassDifference]) -> tuple[float, float]:
    """Return the range of the bars, in points, with room for the numbers beside them."""
    points = [0.0, *(100 * one.difference for one in classes)]
    room = max(1.0, 0.18 * (max(points) - min(points)))
    return min(points) - (room if min(points) < 0 else room / 9), max(points) + room


def _shown(classes: Sequence[ClassDifference]) -> list[ClassDifference | None]:
    """Return the classes with a bar; None stands for those left out in the middle."""
    if len(classes) <= MOST_BARS:
        return list(classes)
    half = (MOST_BARS - 1) // 2
    return [*classes[:half], None, *classes[-half:]]


def short_name(name: str) -> str:
    """Return a class's name as it fits an axis."""
    text = name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 3] + "..."
    return text.replace("$", r"\$")  # matplotlib would read mathematics between two of them
