"""A setting is stated once: a field with its help, choices, bounds and default.

    Count = Annotated[int, Ge(1)]

    @dataclass(frozen=True, kw_only=True)
    class KnnOptions(Settings):
        k: Annotated[Count, Setting("Neighbours.")] = 20

From it come the command line's flag, the key in a --config file, the check, from Python too, and
the words of a refusal, which are the same wherever a value came from.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path, PurePath
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    NoReturn,
    Self,
    TypeVar,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Lt, Predicate

from fungistore.errors import UsageError
from fungistore.headings import OTHER
from fungistore.type_words import Words, atoms_of, elements_of, words_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter

    from fungistore.fingerprint import Config

Spec = TypeVar("Spec")
NEAR_SHOWN = 3


@dataclass(frozen=True)
class Setting:
    """What is said of a field beside its type and default.

    Attributes:
        help: one sentence for the command line, without the default.
        flag: what it is called there, where that is not "--" and the field's name; others that
            mean the same may follow after spaces.
        default: in words, where None stands for something.
        metavar: what stands for the value in the help; default: by the type.
        heading: what its flag stands under in the help; default: the heading of its class.
        names: what it is a name of, such as "model" or "head", for a shell that completes it.
        is_repeated: the flag may be given several times, each time for one more value.
        is_hidden: it has no flag.
    """

    help: str
    flag: str = ""
    default: str = ""
    metavar: str = ""
    heading: str = ""
    names: str = ""
    is_repeated: bool = False
    is_hidden: bool = False


Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Gt(0), Lt(1)]  # a true part of a whole
PowerOfTwo = Annotated[
    int, Predicate(lambda n: n > 0 and not n & (n - 1)), Words("a power of two, 1 or more")
]


@dataclass(frozen=True)
class SettingField:
    """A field of a dataclass, as a setting.

    Attributes:
        name: of the field.
        kind: its type.
        setting: what is said of it; a field of a plain dataclass says nothing.
        default: `dataclasses.MISSING` where it has to be given.
        where: its flag, or for a plain dataclass its place such as "kl.temperature".
        heading: what it stands under in a command's help.
    """

    name: str
    kind: Any
    setting: Setting
    default: Any
    where: str
    heading: str

    @property
    def group(self) -> type[Settings] | None:
        """The class whose settings stand in the place of this field, among the others."""
        is_group = isinstance(self.kind, type) and issubclass(self.kind, Settings)
        return self.kind if is_group else None

    @property
    def key(self) -> str:
        """What it is called in a configuration: its flag, with underscores."""
        return self.where.removeprefix("--").replace("-", "_")

    @property
    def keys(self) -> set[str]:
        """All that it is called in one."""
        others = self.setting.flag.split()[1:]
        words = {one.removeprefix("--").replace("-", "_") for one in others if one[:2] == "--"}
        return {self.name, self.key} | words

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        return words_of(self.kind)

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it takes, beside what else it takes."""
        return tuple(str(atom) for atom in atoms_of(self.kind) if not isinstance(atom, type))

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it takes, where it takes no others."""
        return (
            ()
            if {atom for atom in self.types if isinstance(atom, type)} - {NoneType}
            else self.words
        )

    @property
    def types(self) -> frozenset[Any]:
        """What its values are instances of, and the words among them."""
        return frozenset(atoms_of(self.kind))

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        from pydantic import ConfigDict, TypeAdapter

        has_own_checks = not self.where.startswith("--")  # whose words say more
        rules = ConfigDict(allow_inf_nan=has_own_checks, arbitrary_types_allowed=True)
        return TypeAdapter(self.kind, config=rules)

    def check(self, value: object) -> Any:
        """Return a value as the field has it: "20" as 20, "a,b" as two words, 3.0 as 3.

        Raises:
            UsageError: it cannot be used.
        """
        if self.group:
            return value if isinstance(value, self.group) else self.group.from_config(_table(value))
        from pydantic import ValidationError

        value = _plain(value)
        try:
            if bool not in atoms_of(self.kind) and _has_bool(value):
                raise TypeError("a truth value is no number")
            return self._adapter.validate_python(_prepared(value, self.kind))
        except (ValidationError, TypeError):
            raise refusal(self.where, self.expected, value) from None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of all options: a frozen value whose every field is checked when it is made.

    Attributes:
        heading: what the flags of the fields that a class states itself stand under in the help.
    """

    heading: ClassVar[str] = OTHER

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            UsageError: naming the flag, what it takes and what it got.
        """
        for field in fields_of(type(self)).values():
            object.__setattr__(self, field.name, field.check(getattr(self, field.name)))

    @classmethod
    def flags(cls) -> Iterator[SettingField]:
        """Yield the settings that have a flag, groups' among them, needed ones first."""
        fields = fields_of(cls).values()
        for field in sorted(fields, key=lambda field: field.default is not dataclasses.MISSING):
            if field.group:
                yield from field.group.flags()
            elif not field.setting.is_hidden:
                yield field

    @classmethod
    def flat(cls, config: Mapping[str, Any]) -> Config:
        """Return a configuration with flags' names for fields' and no tables of groups.

        Two configurations can then be put on each other; what is unknown stays as it is.
        """
        fields = fields_of(cls).values()
        names = {one.key: one for field in fields if field.group for one in field.group.flags()}
        names |= {name: field for field in fields for name in field.keys}
        flat: Config = {}
        for given, value in config.items():
            field = names.get(str(given).replace("-", "_"))
            if field is not None and field.group and isinstance(value, Mapping):
                flat |= field.group.flat(value)
            else:
                flat[given if field is None else field.key] = value
        return flat

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build options from names of flags, or fields; dashes and underscores are the same.

        Raises:
            UsageError: an unknown name, a value that cannot be used, or none where one is needed.
        """
        return cls._from_flat(cls.flat(config))

    @classmethod
    def _from_flat(cls, flat: Mapping[str, Any]) -> Self:
        fields = fields_of(cls).values()
        values: dict[str, Any] = {}
        places = {field.key: (values, field.name) for field in fields}
        for field in fields:
            if field.group:
                below = values.setdefault(field.name, {})
                places |= {one.key: (below, one.key) for one in field.group.flags()}
        for key, value in flat.items():
            if key not in places:
                raise _unknown(key, [one.where.removeprefix("--") for one in cls.flags()])
            table, name = places[key]
            table[name] = value
        for field in fields:
            if field.name not in values and field.default is dataclasses.MISSING:
                key = field.name
                expected = f"{field.where} {key.upper()}, or `{key}` in --config"
                raise UsageError(f"no {key} given", expected=expected)
        return cls(**values)

    def to_config(self) -> Config:
        """Return a JSON-ready dictionary that `from_config` turns back into the same options."""
        return {key: value for key, value in to_json(self).items() if value is not None}

    def refuse(self, name: str, expected: str, found: object, hint: str | None = None) -> NoReturn:
        """Refuse the value of a field for what other fields say.

        Raises:
            UsageError: always.
        """
        raise refusal(fields_of(type(self))[name].where, expected, found, hint)


def fields_of(kind: type[Any], table: str = "") -> dict[str, SettingField]:
    """Return the fields of a dataclass as settings, by their names.

    Args:
        kind: the dataclass; of a base of `Settings`, fields are known by their flags.
        table: what a plain dataclass's fields are known by, such as "kl" of "kl.temperature".
    """
    owner: Any = kind  # mypy takes a dataclass for unhashable
    return _fields_of(owner, table)


@cache
def _fields_of(kind: type[Any], table: str) -> dict[str, SettingField]:
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in dataclasses.fields(kind):
        hint, setting = hints[field.name], Setting("", is_hidden=True)
        if get_origin(hint) is Annotated:
            marks = hint.__metadata__
            setting = next((mark for mark in marks if isinstance(mark, Setting)), setting)
            rest = tuple(mark for mark in marks if not isinstance(mark, Setting))
            hint = Annotated[(hint.__origin__, *rest)] if rest else hint.__origin__
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        where = setting.flag.split()[0] if setting.flag else "--" + field.name.replace("_", "-")
        if not issubclass(kind, Settings):
            where = f"{table}.{field.name}"
        owner = next(one for one in kind.__mro__ if field.name in inspect.get_annotations(one))
        heading = setting.heading or vars(owner).get("heading", OTHER)
        found[field.name] = SettingField(field.name, hint, setting, default, where, heading)
    return found


def build(kind: type[Spec], config: Mapping[str, Any], table: str) -> Spec:
    """Build a plain dataclass, such as an objective, from a table of a configuration.

    Args:
        kind: the dataclass; what it checks itself comes after the types.
        config: its fields; those left out have their defaults.
        table: what it belongs to, for messages.

    Raises:
        UsageError: an unknown field, or a value of the wrong type or out of range.
    """
    fields = fields_of(kind, table)
    for key in config:
        if key not in fields:
            raise _unknown(f"{table}.{key}", list(fields))
    for key, field in fields.items():
        if key not in config and field.default is dataclasses.MISSING:
            raise UsageError(f"no {field.where} given", expected=field.expected)
    return kind(**{key: fields[key].check(value) for key, value in config.items()})


def to_json(spec: DataclassInstance) -> Config:
    """Return a JSON-ready dictionary of a dataclass, None included; paths are text."""
    config: Config = json.loads(json.dumps(asdict(spec), default=str))
    return config


def refusal(where: str, expected: str, found: object, hint: str | None = None) -> UsageError:
    """Return the one error of a value that cannot be used."""
    what = f"cannot use this value of {where.removeprefix('--')}"
    return UsageError(what, where=where, expected=expected, found=repr(found), hint=hint)


def require(condition: bool, where: str, expected: str, found: object) -> None:
    """Raise UsageError unless a value can be used; a comparison with NaN counts as False."""
    if not condition:
        raise refusal(where, expected, found)


def _unknown(given: str, known: list[str]) -> UsageError:
    name = given.rpartition(".")[2].replace("_", "-")
    near = get_close_matches(name, [one.replace("_", "-") for one in known], NEAR_SHOWN)
    hint = f"did you mean {' or '.join(near)}?" if near else None
    return UsageError(
        "unknown setting", where=given, expected=f"one of {', '.join(known)}", hint=hint
    )


def _plain(value: Any) -> Any:
    """Return Python's values for NumPy's, in lists too."""
    if type(value).__module__ == "numpy":
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def _prepared(value: Any, kind: Any) -> Any:
    """Return a value as pydantic takes it: commas, or one number, as lists; paths as text."""
    elements = elements_of(kind)
    if elements is not None and isinstance(value, str):
        words = [word.strip() for word in value.split(",") if word.strip()]
        is_optional = NoneType in atoms_of(elements)
        return [
            None if word == "none" and is_optional else _meant(word, elements) for word in words
        ]
    if elements is not None and isinstance(value, int | float):
        return [value]
    if isinstance(value, PurePath) and Path not in atoms_of(kind):
        return str(value)
    return _meant(value, kind) if isinstance(value, str) else value


def _meant(word: str, kind: Any) -> Any:
    """Return the choice that a word stands for where that is no text, such as 1 for "1"."""
    choices = (atom for atom in atoms_of(kind) if not isinstance(atom, type))
    return next((choice for choice in choices if str(choice) == word), word)


def _has_bool(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(one, bool) for one in values)


def _table(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError("settings of a group are a table", found=repr(value))
    return value
