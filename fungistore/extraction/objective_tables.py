"""The parameters of objectives, as flags and tables of a configuration give them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from fungistore.errors import UsageError, did_you_mean
from fungistore.objectives.registry import objective_kind, objective_names
from fungistore.settings import build, fields_of, refusal

if TYPE_CHECKING:
    from fungistore.fingerprint import Config

# What else a feature set has, and a feature's configuration: no objective can be called so.
TAKEN = frozenset(
    {"embeddings", "patches", "schema", "backbone", "compute", "layout"}
    | {"vectors", "gradient", "views", "tokens", "layers"}
)


def objective_of(name: str, given: object, modality: str) -> Any:
    """Return the objective that a name and its parameters, or itself, are.

    Raises:
        UsageError: they are none.
    """
    kind: Any = objective_kind(name, modality)
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        expected = f"{kind.__name__}, or a table of its fields"
        raise refusal(f"objectives[{name!r}]", expected, given)
    return build(kind, given, name)


def is_default(name: str, objective: Any) -> bool:
    """Whether an objective has its defaults."""
    fields = fields_of(type(objective), name).values()
    return all(getattr(objective, field.name) == field.default for field in fields)


def fingerprinted(objective: Any) -> Config:
    """Return an objective's parameters as they enter its fingerprint.

    Those that it names in an attribute `later` came after features had been stored: they are left
    out where they have their default, so that those features are still the ones that are meant.
    """
    table, later = asdict(objective), getattr(objective, "later", ())
    idle = {f.name for f in fields(objective) if f.name in later and table[f.name] == f.default}
    return {name: value for name, value in table.items() if name not in idle}


def offered_beside(options: type) -> list[str]:
    """Return the objectives' names, but those of plug-ins that mean something else already.

    Args:
        options: the class whose fields are called something, too.
    """
    taken = TAKEN.union(*(field.keys for field in fields_of(options).values()))
    return [name for name in objective_names() if name not in taken]


def as_table(value: object, where: str) -> Mapping[str, Any]:
    """Return an objective's settings.

    Raises:
        UsageError: they are no table.
    """
    if not isinstance(value, Mapping):
        raise UsageError("an objective's settings are a table", where=where, found=value)
    return value


def applied(
    settings: Sequence[str], tables: Mapping[str, Mapping[str, Any]], offered: Sequence[str]
) -> Config:
    """Return the objectives' tables with settings applied, whose values are TOML.

    Args:
        settings: OBJECTIVE.FIELD=VALUE each.
        tables: by the objectives' names.
        offered: names that there are.

    Raises:
        UsageError: a setting is not of that form.
    """
    merged = {name: dict(table) for name, table in tables.items()}
    for setting in settings:
        target, equals, text = setting.partition("=")
        table, dot, name = target.partition(".")
        if not equals or not dot or table not in offered:
            known = ", ".join(f"{key}.FIELD=VALUE" for key in offered)
            raise UsageError(
                "malformed setting",
                where=f"--set {setting}",
                expected=known,
                hint=did_you_mean(table, offered) or "such as --set kl.temperature=1",
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        merged.setdefault(table, {})[name] = value
    return merged
