"""Test-time augmentation: a feature map and its mirror images, which no resampling blurs."""

from __future__ import annotations

from collections.abc import Sequence

from fungistore.errors import UsageError
from fungistore.loff.stored import StoredHead
from fungistore.quantities import counted

ROWS_AXIS, COLUMNS_AXIS = 1, 2  # of feature maps [b, h, w, d]
FLIPPED = {
    "hflip": ((COLUMNS_AXIS,),),
    "vflip": ((ROWS_AXIS,),),
    "flips": ((COLUMNS_AXIS,), (ROWS_AXIS,), (ROWS_AXIS, COLUMNS_AXIS)),
}
Flips = tuple[tuple[int, ...], ...]
AS_IT_IS: Flips = ((),)


def flips_of(names: Sequence[str], stored: StoredHead) -> Flips:
    """Return the axes that each view of a head's input is flipped along, the input itself first.

    Args:
        names: "hflip", "vflip", or "flips" for these and both at once.
        stored: the head.

    Raises:
        UsageError: its input has no rows and columns.
    """
    shape = stored.array.array.shape[1:]
    if names and len(shape) != 3:
        found = "an embedding" if len(shape) == 1 else f"sequences of {counted(shape[0], 'token')}"
        raise UsageError(
            f"what the head {stored.name!r} reads cannot be flipped",
            where=f"--tta {','.join(names)}",
            expected="feature maps, with rows and columns",
            found=f"{stored.array.name}: {found}",
            hint="leave out --tta, or name heads of patch tensors",
        )
    return tuple(dict.fromkeys([*AS_IT_IS, *(axes for name in names for axes in FLIPPED[name])]))
