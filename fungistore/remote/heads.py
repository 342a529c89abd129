"""What listings and looks tell of objects, and which of them are in a folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)  # what obstore says where a server tells none


@dataclass(frozen=True)
class Head:
    """What is known of an object without its bytes.

    Attributes:
        key: below the bucket's URL.
        size: in bytes.
        tag: changes when its bytes do; None where a server tells none.
        modified: when it was put, by the server's clock.
        version: what Google numbers the object's versions with; None of all other servers, where
            no condition can name one.
    """

    key: str
    size: int
    tag: str | None
    modified: datetime
    version: str | None = None

    @property
    def state(self) -> str | None:
        """What `Bucket.put` takes as `expected`, None where the server tells nothing."""
        return self.version or self.tag


def tag_of(head: Head) -> str:
    """Return what changes with an object's bytes; of a server without tags, size and time.

    No version: Google tells one of an object that is looked at or read, and none in listings.
    """
    return head.tag or f"{head.size} {head.modified.timestamp()}"


def is_other(now: Head, then: Head, *, of_web: bool = False) -> bool:
    """Whether an object was replaced since it was looked at.

    Args:
        now: what came with its bytes.
        then: what a look told.
        of_web: several web servers of one name may have tags of their own: size and time count too.
    """
    if tag_of(now) == tag_of(then):
        return False
    is_timed = of_web and then.modified != UNKNOWN_TIME
    return not (is_timed and (now.size, now.modified) == (then.size, then.modified))


def divided(heads: Iterable[Head], prefix: str) -> tuple[list[Head], list[str]]:
    """Return which of all objects below a folder are directly there, and the folders there."""
    every = [(one, _below(one.key, prefix)) for one in heads]
    files = [one for one, name in every if "/" not in name]
    return unmarked(files, {name.partition("/")[0] for _, name in every if "/" in name}, prefix)


def unmarked(
    files: Iterable[Head], folders: Iterable[str], prefix: str
) -> tuple[list[Head], list[str]]:
    """Return the same without the empty objects that some tools put in the place of folders.

    They are called `folder/`, of which obstore tells the name without the slash.
    """
    names = sorted(folders)
    marks = {prefix, *(f"{prefix}/{name}" if prefix else name for name in names)}
    return [one for one in files if one.size or one.key not in marks], names


def _below(key: str, prefix: str) -> str:
    if not prefix:
        return key
    return key.rpartition("/")[2] if key == prefix else key.removeprefix(f"{prefix}/")
