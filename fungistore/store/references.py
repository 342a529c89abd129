"""What an artefact says that it was made from: an array's fingerprint, and the digest of its bank.

The fingerprint is of the settings. Where rows were compared with a bank of other samples, such as
SimCLR's negatives, equal settings do not make features that belong together: the bank must be the
same too. A reference that names no bank says nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping

from fungistore.fingerprint import ABSENT

WITH_BANK = "+"


def reference(fingerprint: str, banks: Mapping[str, str]) -> str:
    """Return how an array of a setup is referred to."""
    return WITH_BANK.join([fingerprint, *(banks[name] for name in sorted(banks))])


def fingerprint_of(reference: str) -> str:
    """Return the fingerprint in a reference."""
    return reference.partition(WITH_BANK)[0]


def bank_of(reference: str) -> str:
    """Return the digest of the bank in a reference, "" where it names none."""
    return reference.partition(WITH_BANK)[2]


def is_same(one: object, other: object) -> bool:
    """Whether two references mean features that belong together, as far as they say."""
    first, second = str(one), str(other)
    if WITH_BANK in first and WITH_BANK in second:
        return first == second
    return fingerprint_of(first) == fingerprint_of(second)


def changed_references(
    stored: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Return the arrays whose references differ, with both; `ABSENT` stands for none."""
    both = {
        name: (stored.get(name, ABSENT), now.get(name, ABSENT))
        for name in sorted(stored.keys() | now.keys())
    }
    return {name: pair for name, pair in both.items() if not is_same(*pair)}


def explain_banks(changed: Mapping[str, tuple[str, str]]) -> str:
    """Return a line for messages where only banks differ, "" where settings do."""
    if not changed or any(fingerprint_of(a) != fingerprint_of(b) for a, b in changed.values()):
        return ""
    return (
        "\n    the settings are equal, but the features were compared with other samples (SimCLR's "
        "negatives)"
    )
