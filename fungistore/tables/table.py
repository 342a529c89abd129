"""LOFF-TA's table: methods in rows, stores in columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fungistore.training.rates import SPEED_COLUMNS, ClassifierSpeed


@dataclass(frozen=True)
class Cell:
    """What a row says of one store.

    Attributes:
        heads: names of the heads, or of what else was tested.
        metrics: numbers by name; of several heads the means, and `NAME_deviation`.
        spread: [low, high] of 95 % intervals.
        n_test: rows tested on.
    """

    heads: tuple[str, ...]
    metrics: dict[str, float]
    spread: dict[str, tuple[float, float]]
    n_test: int


@dataclass(frozen=True)
class Found:
    """A row of one store.

    Attributes:
        features: the backbone, and what adapted it.
        method: such as "LOFF-TA + Pool".
        image_size: of the images that the backbone saw; None: not known.
        name: of the heads, which tells rows of one method apart.
        feature_set: that was read.
        cell: what was measured.
        speed: of training and inference; None: not measured.
    """

    features: str
    method: str
    image_size: int | None
    name: str
    feature_set: str
    cell: Cell
    speed: ClassifierSpeed | None


@dataclass(frozen=True)
class TableRow:
    """A row of the table.

    Attributes:
        features: the backbone, and what adapted it.
        method: such as "LOFF-TA + Pool".
        image_size: of the images that the backbone saw; None: not known.
        name: of the heads, which tells rows of one method apart.
        cells: by store; a store without such heads has none.
        speed: in the first store that has it.
    """

    features: str
    method: str
    image_size: int | None
    name: str
    cells: dict[str, Cell]
    speed: ClassifierSpeed | None


@dataclass(frozen=True)
class LoffTable:
    """Methods in rows, stores in columns.

    Attributes:
        stores: their directories.
        metrics: columns of each store.
        rows: one each method.
    """

    stores: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return a Markdown table: metrics in per cent, with deviations over seeds."""
        names = [Path(store).name.removesuffix(".fungi") for store in self.stores]
        told = [name.replace("_", " ") for name in self.metrics]
        measured = [
            f"{n}, {metric}" if len(names) > 1 else metric for n in names for metric in told
        ]
        columns = [
            *("features", "method", "image", "heads", *measured),
            *SPEED_COLUMNS,
        ]
        lines = [columns, ["---"] * len(columns), *map(self._line, self.rows)]
        return "".join(f"| {' | '.join(_escaped(cells))} |\n" for cells in lines)

    def _line(self, row: TableRow) -> list[str]:
        cells = [row.cells.get(store) for store in self.stores]
        return [
            *(row.features, row.method, "-" if row.image_size is None else str(row.image_size)),
            row.name,
            *(_percent(cell, name) for cell in cells for name in self.metrics),
            *(("-",) * len(SPEED_COLUMNS) if row.speed is None else row.speed.cells()),
        ]


def _percent(cell: Cell | None, name: str) -> str:
    if cell is None or name not in cell.metrics:
        return "-"
    text = f"{100 * cell.metrics[name]:.1f}"
    deviation = cell.metrics.get(f"{name}_deviation")
    return text if deviation is None else f"{text} ± {100 * deviation:.1f}"


def _escaped(cells: Sequence[str]) -> list[str]:
    return [re.sub(r"([|\\])", r"\\\1", cell).replace("\n", " ") for cell in cells]
