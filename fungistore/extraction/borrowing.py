"""`--bank-from STORE`: the banks of another store, so that features of both belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import MismatchError, UsageError
from fungistore.extraction.resolve import Resolved
from fungistore.fingerprint import Config, describe, differences, digest_array
from fungistore.store.feature import GRADIENTS
from fungistore.store.setups import Setups
from fungistore.store.store import Store


def borrowed_bank(resolved: Resolved, feature: str, config: Config) -> NDArray[np.float32] | None:
    """Return the bank that another store compares a feature with; None where none is asked for.

    Args:
        resolved: the settled options.
        feature: an objective that needs a bank.
        config: of the feature; what decides a bank must be equal in the other store.

    Raises:
        UsageError: the other store has no such bank.
        MismatchError: it is another encoder's, of another size, or of other views or heads.
    """
    place, name = resolved.options.bank_from, resolved.banks[feature].name
    if place is None:
        return None
    store = Store.open(place)
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    computed_alike = set()
    for feature_set in store.feature_sets():
        array = store.arrays(feature_set).get(GRADIENTS + feature)
        if array is None or name not in store.setups.banks(array.fingerprint):
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
            hint=f"fungi extract SOURCE {store.where} --features {feature} makes them",
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


def refuse_other_bank(
    setups: Setups, key: str, name: str, bank: NDArray[Any] | None, where: object
) -> None:
    """Raise MismatchError where a frozen bank is not the one that was asked for.

    Args:
        setups: of the store.
        key: the setup with the bank; one that is not there is as it should be.
        name: of the bank.
        bank: that was asked for; None: none was.
        where: the store.
    """
    if bank is None or not setups.has(key):
        return
    stored, asked = setups.banks(key).get(name), digest_array(bank)
    if stored != asked:
        raise MismatchError(
            f"the features were compared with other {name}",
            where=where,
            expected=f"{name} {stored}, as they were frozen",
            found=f"{name} {asked} of --bank-from",
            hint="leave out --bank-from to go on; --restart begins anew with the other store's",
        )


def _differences(theirs: Config, ours: Config, feature: str) -> dict[str, tuple[Any, Any]]:
    """Return in what two configurations differ that decides a bank."""

    def deciding(config: Config) -> Config:
        gradient = config.get("gradient", {})
        return {
            "backbone": config.get("backbone"),
            "gradient": {"seed": gradient.get("seed")},
            "views": config.get("views"),
            feature: config.get(feature),
        }

    return differences(deciding(theirs), deciding(ours), common=False)
