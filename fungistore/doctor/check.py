"""One answer of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it will do, and how to mend it.

    Attributes:
        name: what was looked at.
        state: "pass"; "warn" where work is possible but slower or less safe; "fail" where it is
            not.
        found: what is there, with its numbers.
        fix: one line that says how to mend it; None where nothing is to do.
    """

    name: str
    state: State
    found: str
    fix: str | None = None


def passed(name: str, found: str) -> Check:
    """Return a check that found all well."""
    return Check(name, "pass", found)


def warned(name: str, found: str, fix: str) -> Check:
    """Return a check that found something that can be lived with."""
    return Check(name, "warn", found, fix)


def failed(name: str, found: str, fix: str) -> Check:
    """Return a check that found something that stops the work."""
    return Check(name, "fail", found, fix)
