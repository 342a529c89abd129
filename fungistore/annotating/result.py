"""What taking over masks did, for the caller and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fungistore.quantities import counted

FIRST_SHOWN = 5


@dataclass(frozen=True)
class AnnotateResult:
    """What taking over masks did.

    Attributes:
        store: the store's directory.
        images: of the store.
        masks: that it has now.
        read: masks that were read by this run, those that could not be used among them.
        kept: masks that it had, and whose files are as they were.
        gone: of those, masks whose files are not there now: the store has them.
        skipped: masks that could not be used, or are missing.
        reasons: how many of each, by a word for it.
        failures: the first of them, as "id: file: why".
        classes: names by index.
        void: the value of files that is not judged; None where none is.
        share: of the judged pixels, by class.
    """

    store: str
    images: int
    masks: int
    read: int
    kept: int
    gone: int
    skipped: int
    reasons: Mapping[str, int]
    failures: tuple[str, ...]
    classes: tuple[str, ...]
    void: int | None
    share: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        void = "no void" if self.void is None else f"void {self.void}"
        said = f"{counted(self.masks, 'mask')} of {counted(self.images, 'image')}, "
        said += f"{counted(len(self.classes), 'class')}, {void}; {self.read} read, {self.kept} kept"
        if self.gone:
            said += f" ({self.gone} of files that are gone)"
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return said + (f"; {self.skipped} skipped ({reasons})" if self.skipped else "")
