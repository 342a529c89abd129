"""What a classifier says of rows: ranked labels, and how likely each class is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RANKED = 5  # labels that are kept of each row: top-5 accuracy needs no more


@dataclass(frozen=True)
class Predictions:
    """What a classifier said of each test row.

    Attributes:
        ranked: [n, r] int32 labels, the most likely first; -1 where fewer were found likely.
        chances: [n, c] how likely each class is; None where that is not known.
        columns: [c] the labels of these classes, ascending.
    """

    ranked: NDArray[np.int32]
    chances: NDArray[np.floating] | None = None
    columns: NDArray[np.integer] = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def labels(self) -> NDArray[np.int32]:
        """The predicted labels [n]."""
        return self.ranked[:, 0]

    @classmethod
    def of_probabilities(
        cls, chances: NDArray[np.floating], labels: NDArray[np.integer]
    ) -> Predictions:
        """Rank the labels of probabilities [n, c], one column a label; ties to the first column.

        Of more than two classes they are kept in float32.
        """
        order = np.argsort(-chances, axis=1, kind="stable")[:, :RANKED]
        kept = chances if len(labels) == 2 else chances.astype(np.float32, copy=False)
        return cls(labels[order].astype(np.int32), kept, labels)

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Return the predictions of consecutive rows as one."""
        chances = [part.chances for part in parts if part.chances is not None]
        return cls(
            np.concatenate([part.ranked for part in parts]),
            np.concatenate(chances) if chances else None,
            parts[0].columns,
        )
