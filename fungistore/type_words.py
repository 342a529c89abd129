"""Types in words: what a value may be, for the text of a refusal and of a command's help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


@dataclass(frozen=True)
class Words:
    """What a type with a check of its own takes: stands in its Annotated."""

    text: str


def atoms_of(kind: Any) -> tuple[Any, ...]:
    """Return the types, and the words of literals, that a type is made of."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return inner
    if origin is Annotated:
        return atoms_of(inner[0])
    if origin in (Union, UnionType):
        return tuple(atom for one in inner for atom in atoms_of(one))
    return (origin or kind,)


def elements_of(kind: Any) -> Any:
    """Return the type of a list's elements, None of what is no list."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return elements_of(inner[0])
    if origin in (Union, UnionType):
        return next((found for one in inner if (found := elements_of(one))), None)
    return inner[0] if origin in (tuple, list) else None


def words_of(kind: Any) -> str:
    """Return what a type takes, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        said = next((mark.text for mark in inner[1:] if isinstance(mark, Words)), None)
        bounds = _bounds(inner[1:])
        link = " of " if bounds[:1].isdecimal() else " "
        return said or (words_of(inner[0]) + link + bounds if bounds else words_of(inner[0]))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(words_of(one) for one in inner if one is not NoneType)
    if origin in (tuple, list):
        element = inner[0]
        if get_origin(element) is Literal:
            return f"some of {', '.join(map(str, get_args(element)))}"
        none = " or none" if NoneType in atoms_of(element) else ""
        return f"one or more of: {words_of(element)}{none}"
    return NAMES.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def _bounds(marks: tuple[Any, ...]) -> str:
    above = next((mark.gt for mark in marks if isinstance(mark, Gt)), None)
    below = next((mark.lt for mark in marks if isinstance(mark, Lt)), None)
    least = next((mark.ge for mark in marks if isinstance(mark, Ge)), None)
    most = next((mark.le for mark in marks if isinstance(mark, Le)), None)
    if above is not None and below is not None:
        return f"between {above} and {below}"
    words = (
        None if above is None else f"above {above}",
        None if least is None else f"{least} or more",
        None if below is None else f"below {below}",
        None if most is None else f"at most {most}",
    )
    return ", ".join(filter(None, words))
