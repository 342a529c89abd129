"""Banks that cannot be asked: of other classes than the masks, or with too few patches."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from fungistore.annotations.masks import Masks
from fungistore.errors import MismatchError
from fungistore.quantities import counted
from fungistore.segmentation.banks import Bank
from fungistore.segmentation.predict_options import AttentionChoice

NAMES_SHOWN = 5


def refuse_other_classes(bank: Bank, masks: Masks) -> None:
    """Refuse a bank whose labels are others than those of the masks that are there now.

    Raises:
        MismatchError: they are.
    """
    if tuple(bank.classes) != tuple(masks.classes):
        store = bank.tokens.store.where
        raise MismatchError(
            "the bank is of other classes than the masks",
            where=f"--bank {bank.name}",
            expected=_names(masks.classes),
            found=_names(bank.classes),
            hint=f"make it again: fungi bank {quote(store)} --name {bank.name} --restart",
        )


def refuse_few(bank: Bank, options: AttentionChoice) -> None:
    """Refuse a bank with fewer patches than neighbours are asked for.

    Raises:
        UsageError: it has.
    """
    if (patches := len(bank.vectors)) < options.k:
        options.refuse(
            "k",
            f"no more than the {counted(patches, 'patch', 'patches')} of bank {bank.name!r}",
            options.k,
            "a larger bank has more",
        )


def _names(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:NAMES_SHOWN]) + ", ..." * (len(classes) > NAMES_SHOWN)
    return f"{counted(len(classes), 'class')}: {shown}"
