"""Classes from low to high, which is what a quadratic kappa weighs errors by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError

if TYPE_CHECKING:
    from fungistore.evaluation.options import KappaChoice

# a number, the same words before and after it in every class: "3", "grade 3", "3 stars"; the "-" of
# "grade-3" is no sign
NUMBERED = re.compile(
    r"(?P<before>\D*?)(?P<number>(?:(?<!\w)-)?\d+(?:\.\d+)?)(?P<after>\D*)", re.DOTALL
)
NAMES_SHOWN = 20
KAPPA = "quadratic_kappa"


def class_order(names: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return class names from low to high; None where nothing tells their order.

    Two classes need none, since errors among them are all as far. Of numbers, 10 comes after 9.

    Args:
        names: of the classes.
        asked: the same in their order, where it was given.

    Raises:
        UsageError: what was given are not these classes.
    """
    if asked is not None:
        if sorted(asked) != sorted(names):
            raise UsageError(
                "the order is not of these classes",
                where="--order",
                expected=", ".join(names[:NAMES_SHOWN]) + (", ..." * (len(names) > NAMES_SHOWN)),
                found=", ".join(asked),
            )
        return tuple(asked)
    if len(names) == 2:
        return tuple(names)
    found = [match for name in names if (match := NUMBERED.fullmatch(name))]
    around = {(match["before"], match["after"]) for match in found}
    numbers = [float(match["number"]) for match in found]
    if len(found) < len(names) or len(around) > 1 or len(set(numbers)) < len(numbers):
        return None
    return tuple(name for _, name in sorted(zip(numbers, names, strict=True)))


def require_order(names: Sequence[str], asked: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return `class_order`, or refuse to guess it.

    Raises:
        UsageError: nothing tells the order, or what was given are not these classes.
    """
    order = class_order(names, asked)
    if order is None:
        raise UsageError(
            "a quadratic kappa makes sense of ordered classes only",
            where=where,
            expected="classes that are numbers, or --order with their names from low to high",
            found=", ".join(names[:NAMES_SHOWN]),
            hint=f"--order {','.join(names[:3])},... if that is their order",
        )
    return order


def ranks_for(
    metric: str, names: Sequence[str], asked: Sequence[str] | None
) -> NDArray[np.int64] | None:
    """Return the rank of each class where a head's metric, or an order, says that there are some.

    Names alone do not: digits and WordNet's ids are numbers, and no grades.
    """
    if asked is None and metric != KAPPA:
        return None
    order = class_order(names, asked)
    return None if order is None else ranks_of(names, order)


def asked_ranks(
    choice: KappaChoice, metric: str, names: Sequence[str], order: Sequence[str] | None
) -> NDArray[np.int64] | None:
    """Return the rank of each class where an evaluation asks for the kappa, or else `ranks_for`.

    Args:
        choice: of the evaluation.
        metric: that chose the epoch of what is tested.
        names: of the classes.
        order: that it was trained with.

    Raises:
        UsageError: nothing tells the order that was asked for.
    """
    if choice.kappa or choice.order:
        return ranks_of(names, require_order(names, choice.order or order, "--kappa"))
    return ranks_for(metric, names, order)


def ranks_of(names: Sequence[str], order: Sequence[str]) -> NDArray[np.int64]:
    """Return the rank of each class, from 0."""
    rank = {name: number for number, name in enumerate(order)}
    return np.array([rank[name] for name in names], np.int64)
