"""What backbones there are, of all families: names and sizes, read off without any weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from fungistore.backbones.families import FAMILIES, TIMM, BackboneCard, find_family, split_model
from fungistore.backbones.timm_vit.cards import read_cards, shipped_names
from fungistore.errors import refuse_text


def find_backbones(pattern: str) -> list[str]:
    """Return the names that match a shell pattern or contain it, with their pretrained tags.

    Raises:
        UsageError: the pattern begins with a family that is not there.
    """
    if ":" in pattern:
        asked, pattern = split_model(pattern)
        families = [asked]
    else:
        families = [one for one in FAMILIES if not _is_listed_by_name(one)]
    return [
        name if family == TIMM else f"{family}:{name}"
        for family in families
        for name in find_family(family).find(pattern)
    ]


def _is_listed_by_name(family: str) -> bool:
    return bool(getattr(find_family(family), "listed_by_name", False))


def complete_backbone(begun: str) -> list[str]:
    """Return the names that begin so, for a shell: of what is known without importing timm.

    Of another family its name alone is offered, with the colon; of a timm that no list is of, the
    names in the list that comes with the package.
    """
    names = list(read_cards()) or shipped_names()
    names += [f"{family}:" for family in FAMILIES if family != TIMM]
    return [name for name in names if name.startswith(begun)]


def describe_backbones(names: Sequence[str]) -> Iterator[BackboneCard]:
    """Return a card for each name, as they are asked for; nothing is downloaded.

    Raises:
        UsageError: the names are one text.
    """
    refuse_text("names", names)
    return _described(names)


def _described(names: Sequence[str]) -> Iterator[BackboneCard]:
    for family, models in groupby(map(split_model, names), key=lambda model: model[0]):
        yield from find_family(family).describe([name for _, name in models])
