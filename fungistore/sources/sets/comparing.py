"""What a source has beside what the publication of its data set says, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fungistore.modalities.modality import find_modality
from fungistore.quantities import counted
from fungistore.sources.sets.facts import DataSet

_SHOWN = 3


def differences(
    data_set: DataSet, splits: Mapping[str, int], missing: Sequence[str], images: int | None = None
) -> list[str]:
    """Return what is not as published; nothing if all is.

    Args:
        data_set: what was published.
        splits: images that are listed, by split.
        missing: those of them that have no file.
        images: how many there should be, where that is not as published and splits are unknown.
    """
    said, name, total = [], data_set.name, sum(splits.values())
    modality = find_modality(data_set.modality)
    item, items = modality.item, modality.items
    if total != images if images else dict(splits) != dict(data_set.splits):
        parts = [f"{split} {splits.get(split, 0)}/{n}" for split, n in data_set.splits.items()]
        said.append(
            f"{name}: {counted(total, item, items)} listed, {images or data_set.images} published"
            + ("" if images else f" ({', '.join(parts)})")
        )
    if missing:
        names = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        count = counted(len(missing), f"listed {item}", f"listed {items}")
        said.append(f"{name}: {count} not there: {names}")
    return said
