"""The family of timm's models; imports timm, and so torch, only where it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import TYPE_CHECKING, ClassVar, Unpack

from fungistore.backbones.families import BackboneCard, LoadSettings
from fungistore.backbones.timm_vit.cards import keep_cards, read_cards

if TYPE_CHECKING:
    from fungistore.backbones.adapters.adaptation import Adaptation
    from fungistore.backbones.encoder import Encoder


class TimmFamily:
    """timm's models, by timm's own names."""

    modality: ClassVar[str] = "image"
    own_settings: ClassVar[tuple[str, ...]] = ("adapter",)

    def load(
        self, name: str, *, adapter: Adaptation | None = None, **settings: Unpack[LoadSettings]
    ) -> Encoder:
        """Build a model, and adapt it; see `load_timm_vit` and `adapted`."""
        from fungistore.backbones.timm_vit.loading import adapted, load_timm_vit

        encoder = load_timm_vit(name, **settings)
        return encoder if adapter is None else adapted(encoder, adapter)

    def find(self, pattern: str) -> list[str]:
        """Return timm's names with their pretrained tags."""
        if not any(mark in pattern for mark in "*?["):
            pattern = f"*{pattern}*"
        return [name for name in read_cards() or _listed() if fnmatch(name, pattern)]

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield cards; a model that has none yet is built on the meta device.

        One that gives no embedding has none.
        """
        known, made = read_cards(), {}
        for name in names:
            card = known.get(name)
            if card is None and (card := _made(name)) is not None:
                made[name] = card
            if card is not None:
                yield card
        if made:
            keep_cards((known or dict.fromkeys(_listed())) | made)


def _listed() -> list[str]:
    from fungistore.backbones.timm_vit.catalogue import list_models

    return list_models()


def _made(name: str) -> BackboneCard | None:
    from fungistore.backbones.timm_vit.catalogue import describe_models

    return next(describe_models([name]), None)
