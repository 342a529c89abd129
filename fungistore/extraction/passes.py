"""Which features share their views and their forwards."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass

from fungistore.extraction.drawing import BASE
from fungistore.store.feature import objective_name


@dataclass(frozen=True)
class Pass:
    """Features of the same forwards; `views` is the objective whose views they see, or BASE."""

    views: str
    features: frozenset[str]
    reads_tokens: bool


def divided(
    features: Set[str], objectives: Collection[str], reading: Collection[str]
) -> list[Pass]:
    """Divide features into passes: those of the base view come first.

    Args:
        features: of any target layers.
        objectives: those that have views of their own.
        reading: the features that are made of tokens.
    """
    views: dict[str, set[str]] = {}
    for name in features:
        own = objective_name(name)
        views.setdefault(own if own in objectives else BASE, set()).add(name)
    base = frozenset(views.pop(BASE, ()))
    tokens = base.intersection(reading)
    passes = [Pass(BASE, base - tokens, False), Pass(BASE, tokens, True)]
    for name, own_features in sorted(views.items()):
        reads = not own_features.isdisjoint(reading)
        passes.append(Pass(name, frozenset(own_features), reads))
    return [one for one in passes if one.features]
