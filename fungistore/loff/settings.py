"""Settings of LOFF-TA as JSON and back: the one place where its specs are written and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fungistore.errors import UsageError
from fungistore.fingerprint import Config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Spec = TypeVar("Spec", bound=DataclassInstance)
else:
    Spec = TypeVar("Spec")


def write_spec(spec: DataclassInstance) -> Config:
    """Return a JSON-ready dictionary of a frozen dataclass; `read_spec` gives it back."""
    config: Config = json.loads(json.dumps(asdict(spec)))
    return config


def read_spec(kind: type[Spec], config: Mapping[str, Any], table: str) -> Spec:
    """Build a spec from a dictionary of checked values.

    Args:
        kind: the frozen dataclass.
        config: its fields; those left out have their defaults.
        table: what the settings belong to, for messages: "augment" or "head".

    Raises:
        UsageError: an unknown field, or a value of the wrong type or out of range.
    """
    known = [field.name for field in fields(kind)]
    unknown = sorted(config.keys() - set(known))
    if unknown:
        expected = f"one of {', '.join(known)}"
        raise UsageError("unknown setting", where=f"{table}.{unknown[0]}", expected=expected)
    try:
        return TypeAdapter(kind).validate_python(dict(config))
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(
            "a setting has the wrong type or value",
            where=".".join([table, *map(str, problem["loc"])]),
            expected=problem["msg"],
            found=repr(problem["input"]),
        ) from error


def require(condition: bool, setting: str, expected: str, found: object) -> None:
    """Raise UsageError unless a setting can be used; a comparison with NaN counts as False."""
    if not condition:
        what = "a setting cannot be used"
        raise UsageError(what, where=setting, expected=expected, found=repr(found))
