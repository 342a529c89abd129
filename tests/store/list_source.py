"""A source that is a list of samples: what a folder or manifest yields, without any files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fungistore.sources.labels import sort_label_names
from fungistore.sources.sample import Sample


@dataclass(frozen=True)
class ListSource:
    """Samples in a fixed order below a directory that need not exist."""

    root: str
    samples: list[Sample]
    origin: str = "list"

    def label_names(self) -> list[str]:
        """All class names, sorted as every source sorts them."""
        return sort_label_names(s.label for s in self.samples if s.label is not None)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def numbered(count: int, start: int = 0, root: str = "/images") -> ListSource:
    """Return samples 00000000.jpg, 00000001.jpg, ... with three labels and two splits."""
    return ListSource(
        root,
        [
            Sample(
                id=f"{n:08d}.jpg",
                uri=f"{n:08d}.jpg",
                label=("cat", "dog", None, "eel")[n % 4],
                split="test" if n % 5 == 0 else "train",
                bytes=1000 + n,
                mtime=1.7e9 + n / 8,
            )
            for n in range(start, start + count)
        ],
    )
