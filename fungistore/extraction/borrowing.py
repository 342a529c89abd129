"""`--bank-from STORE`: the banks of another store, so that features of both belong together."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import MismatchError, UsageError
from fungistore.extraction.resolve import Resolved
from fungistore.fingerprint import Config, describe, differences, digest_array, fingerprint
from fungistore.store.feature import gradient_path, objective_name
from fungistore.store.store import Store

Banks = Mapping[str, NDArray[np.float32]]  # by objective


def deciding(config: Config, feature: str) -> Config:
    """Return the part of a feature's configuration that its bank depends on, but for rounding."""
    gradient = config.get("gradient", {})
    return {
        "backbone": config.get("backbone"),
        "gradient": {"seed": gradient.get("seed")},
        "views": config.get("views"),
        feature: config.get(feature),
    }


def borrowed_banks(resolved: Resolved, configs: Mapping[str, Config]) -> Banks:
    """Return the banks that another store compares features with; {} where none are asked for.

    Args:
        resolved: the settled options.
        configs: of the features; what decides a bank must be equal in the other store.

    Raises:
        UsageError: the other store has no such bank.
        MismatchError: it is another encoder's, of another size, or of other views or heads.
    """
    place = resolved.options.bank_from
    if place is None:
        return {}
    by_objective = {objective_name(feature): config for feature, config in configs.items()}
    return {
        name: _borrowed(Store.open(place), resolved, name, by_objective[name])
        for name in resolved.banks
    }


def _borrowed(
    store: Store, resolved: Resolved, feature: str, config: Config
) -> NDArray[np.float32]:
    name = resolved.banks[feature].name
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    computed_alike = set()
    for feature_set in store.feature_sets():
        for path, array in store.arrays(feature_set).items():
            of_it = objective_name(path) == gradient_path(feature)  # of whichever target layer
            if not of_it or name not in store.setups.banks(array.fingerprint):
                continue
            theirs = store.setups.config(array.fingerprint)
            found[array.fingerprint] = _differences(theirs, config, feature)
            if theirs.get("compute") == config["compute"]:
                computed_alike.add(array.fingerprint)
    equal = {key for key, fields in found.items() if not fields}
    equal = equal & computed_alike or equal
    digests = {store.setups.banks(key)[name] for key in equal}
    if len(digests) == 1:
        bank: NDArray[np.float32] = store.setups.bank(min(equal), name)
        return bank
    where = f"--bank-from {store.where}"
    if not found:
        raise UsageError(
            f"the store has no {name} of {feature}",
            where=where,
            expected=f"a store with {feature} features of this model",
            found=", ".join(store.feature_sets()) or "no features",
            hint=f"fungi extract SOURCE {quote(store.where)} --features {feature} makes them",
        )
    if digests:
        raise UsageError(
            f"the store has several {name} of {feature}",
            where=where,
            expected="one feature set with these settings",
            found=f"{len(digests)}, made in other batches or precisions",
            hint="repeat the settings of one of them, batch size and precision too",
        )
    least = min(found.values(), key=len)
    raise MismatchError(
        f"the store's {name} were made with other settings",
        where=where,
        expected="the same encoder, and as many samples, seen and projected in the same way",
        found=describe(least),
        hint=f"repeat the stored settings, or leave out --bank-from for {name} of this store's own",
    )


def refuse_other_banks(
    store: Store,
    resolved: Resolved,
    configs: Mapping[str, Config],
    borrowed: Banks,
    *,
    restart: bool = False,
) -> None:
    """Refuse banks that are not those that were frozen with the same settings.

    Args:
        store: where features are to be compared with the banks.
        resolved: the settled options.
        configs: of the features.
        borrowed: as `borrowed_banks` returns them.
        restart: the feature set's own arrays are about to be deleted. Equal settings of another
            feature set stay, and their bank with them.

    Raises:
        MismatchError: a frozen bank is another one.
    """
    name = resolved.options.name
    sets = {other: store.arrays(other).values() for other in store.feature_sets()}
    for feature, config in configs.items():
        if (bank := borrowed.get(objective_name(feature))) is None:
            continue
        key, what = fingerprint(config), resolved.banks[objective_name(feature)].name
        users = [one for one, arrays in sets.items() if key in {a.fingerprint for a in arrays}]
        sharers = [repr(one) for one in users if one != name]
        if not store.setups.has(key) or (restart and not sharers):
            continue
        stored, asked = store.setups.banks(key).get(what), digest_array(bank)
        if stored == asked:
            continue
        hint = "leave out --bank-from to go on; --restart begins anew with the other store's"
        if sharers:
            hint = (
                f"feature set {', '.join(sharers)} has equal settings, and those have one bank in "
                "a store: leave out --bank-from, or extract into another store"
            )
        raise MismatchError(
            f"the features were compared with other {what}",
            where=store.where,
            expected=f"{what} {stored}, as they were frozen",
            found=f"{what} {asked} of --bank-from",
            hint=hint,
        )


def _differences(theirs: Config, ours: Config, feature: str) -> dict[str, tuple[Any, Any]]:
    """Return in what two configurations differ that decides a bank."""

    return differences(deciding(theirs, feature), deciding(ours, feature), common=False)
