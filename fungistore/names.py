"""Names: those of feature sets, PCAs, indexes and heads, which are folders too; and of files.

Also the names that no file of ours, and no sample, has: those of what desktops, network storage and
editors put into any folder that they come by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import Predicate

from fungistore.settings import refusal
from fungistore.type_words import Words

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}")
NAME_RULE = "letters, digits and . _ + @ -, up to 128 of them; not c, nor a system's file name"
_DIGITS = re.compile("[0-9]{1,4000}")  # int() takes no more
CHUNKS = "c"  # the folder that zarr keeps an array's chunks in

LITTER = frozenset(  # in lower case
    (
        *("@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot"),  # network storage
        *("@tmp", "@__thumb", "@upload_cache", "@sharebin"),
        *("lost+found", "found.000", "recycler", "$extend"),  # disks
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *(".ds_store", ".localized", "__macosx", "icon\r", "resource.frk", "network trash folder"),
        *("temporary items", "thevolumesettingsfolder", "__pycache__", "picasa.ini"),
    )
)


def is_litter(name: str) -> bool:
    """Whether a name is one that systems give to their own files, and nobody else does."""
    return name.lower() in LITTER or name.startswith(("._", ".nfs", ".fuse_hidden"))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or litter, and so nobody's sample."""
    return name.startswith(".") or is_litter(name)


def is_foreign(name: str) -> bool:
    """Whether a file or folder that is met in a store is another program's, and none of ours.

    This is the one rule for all that list a folder of a store. The names of unfinished files and
    the locks' folder begin with a dot, too; nobody lists those.
    """
    is_backup = name.endswith("~") or (name.startswith("#") and name.endswith("#"))
    return is_backup or is_hidden(name)


def is_plain_name(name: str) -> bool:
    """Whether a name can be a folder on every system, and no file of the store's own."""
    is_ours = name == CHUNKS or name.endswith((".json", ".partial"))
    return bool(PLAIN_NAME.fullmatch(name)) and not is_ours and not is_foreign(name)


def is_file_name(name: object) -> bool:
    """Whether a name that a store's file gives is that of a file beside it, and leads nowhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\0"}


def suffix_of(name: str) -> str:
    """Return what follows the last dot of a file's name, in lower case; "" without a dot."""
    _, dot, suffix = name.rpartition(".")
    return suffix.lower() if dot else ""


def out_of_order(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two neighbours that differ in their numbers, the greater one first.

    A shell lists part_10 before part_2.
    """
    for one, other in pairwise(names):
        if _DIGITS.sub("0", one) == _DIGITS.sub("0", other):
            numbers = [list(map(int, _DIGITS.findall(name))) for name in (one, other)]
            if numbers[0] > numbers[1]:
                return one, other
    return None


def refuse_odd_name(name: str, flag: str) -> None:
    """Raise UsageError if `name`, given by `flag`, is no plain name."""
    if not is_plain_name(name):
        raise refusal(flag, NAME_RULE, name)


PlainName = Annotated[str, Predicate(is_plain_name), Words(NAME_RULE)]
