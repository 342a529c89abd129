"""Refuses to mix features that were made with different settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fungistore.errors import MismatchError, UsageError
from fungistore.fingerprint import Config, describe, differences
from fungistore.quantities import counted

if TYPE_CHECKING:
    from fungistore.store.store import Store

DERIVED = ("gradient.projection.first_block",)  # differs wherever the seed does: not worth showing


def refuse_mismatch(store: Store, feature_set: str, asked: Mapping[str, Config]) -> None:
    """Compare configurations with those of a feature set's arrays, field by field.

    Fields that arrays share must agree over the whole set, so that its features belong
    together; an array that is there already must agree in every field.

    Args:
        store: the store.
        feature_set: name of the feature set.
        asked: configuration of each array that is about to be written, by the array's name.

    Raises:
        MismatchError: a field differs; nothing was changed.
    """
    fields: dict[str, tuple[Any, Any]] = {}
    for name, array in store.arrays(feature_set).items():
        stored = store.setups.config(array.fingerprint)
        for other, config in asked.items():
            fields |= differences(stored, config, common=name != other)
    causes = {name: both for name, both in fields.items() if name not in DERIVED}
    if fields:
        raise MismatchError(
            f"feature set {feature_set!r} was made with other settings",
            where=store.where,
            expected="the same settings, or another feature set",
            found=describe(causes or fields),
            hint="repeat the stored settings, or keep both with --feature-set OTHER, "
            "or start it anew with --restart",
        )


def refuse_many_chunks(unit_rows: int, shard_units: int, feature_set: str) -> None:
    """Refuse a shard of more chunks than the units of a feature set have rows.

    Raises:
        UsageError: it is.
    """
    if shard_units > unit_rows:
        raise UsageError(
            "a file of a unit would have more chunks than rows",
            where="--shard-units",
            expected=f"at most {unit_rows}, as units of feature set {feature_set!r} have "
            f"{counted(unit_rows, 'row')}",
            found=shard_units,
            hint="a smaller number, or --feature-set OTHER, which has units of its own",
        )
