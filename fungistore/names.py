"""Names: those of feature sets, PCAs, indexes and heads, which are folders too; and of files."""

from __future__ import annotations

import re
from typing import Annotated

from annotated_types import Predicate

from fungistore.settings import refusal
from fungistore.type_words import Words

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
NAME_RULE = "letters, digits and . _ + -, up to 128 of them"


def is_plain_name(name: str) -> bool:
    """Whether a name can be a folder on every system, and no file of the store's own."""
    return bool(PLAIN_NAME.fullmatch(name)) and not name.endswith((".json", ".partial"))


def is_file_name(name: object) -> bool:
    """Whether a name that a store's file gives is that of a file beside it, and leads nowhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\0"}


def suffix_of(name: str) -> str:
    """Return what follows the last dot of a file's name, in lower case; "" without a dot."""
    _, dot, suffix = name.rpartition(".")
    return suffix.lower() if dot else ""


def refuse_odd_name(name: str, flag: str) -> None:
    """Raise UsageError if `name`, given by `flag`, is no plain name."""
    if not is_plain_name(name):
        raise refusal(flag, NAME_RULE, name)


PlainName = Annotated[str, Predicate(is_plain_name), Words(NAME_RULE)]
