"""The bytes of items at URLs: one by one, or several with one request where they lie side by side.

What no item is to blame for ends the run instead of making every item a failed one: where several
requests after each other were refused or not answered, an object that was read before is asked
for. If it is there, the others are failed inputs; else the server, the network or the credentials
are the cause, and that is said once.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from fungistore.containers.container import read_contained
from fungistore.errors import ItemError, UnreachableError
from fungistore.location import Location
from fungistore.remote import files
from fungistore.remote.places import without_secret

PACKED_ANEW = (
    "the shard is another one than when it was listed, and the item is no longer here; "
    "fungi extract finds it again"
)
TOO_SHORT = "the shard ends before this item does"
REFUSED_IN_A_ROW = 4  # requests, before the cause is looked for
GAP = 1 << 18  # bytes between two members that are read rather than asked around
AT_ONCE = 1 << 22  # bytes of one request for several members
# By a server that is well.
ANSWERED = (errno.ENOENT, errno.ENOTSUP, errno.EINVAL, errno.ERANGE, errno.EEXIST)
OWN_WORDS = {  # what is the cause says the error itself; what to try
    errno.ENXIO: None,
    errno.EPROTO: None,
    errno.ENOTSUP: "download it first (curl -O, aws s3 cp), and give the file",
    errno.EINVAL: "rename that object (aws s3 mv), or give a prefix that is not above it",
    errno.EEXIST: "run it again when nobody writes it",
}


@dataclass
class _Reachability:
    """What the last requests of this process came to."""

    good: str | None = None
    refused: int = 0
    lock: Lock = field(default_factory=Lock)

    def read(self, url: str) -> None:
        """Note that an object was read."""
        self.good, self.refused = url, 0

    def failed(self, url: str, error: OSError) -> None:
        """Note that one was not.

        Raises:
            UnreachableError: it is no fault of the object.
        """
        if error.errno in ANSWERED:
            return
        with self.lock:
            self.refused += 1
            if self.refused < REFUSED_IN_A_ROW:
                return
            if self.good is not None:
                try:
                    files.look(self.good)
                except OSError as cause:
                    error = cause
                else:
                    self.refused = 0
                    return
            raise unreachable(error, f"{self.refused} objects after each other") from error


_REACHED = _Reachability()


def unreachable(error: OSError, what: str) -> UnreachableError:
    """Return what to say where the server is the cause.

    Args:
        error: of a request.
        what: cannot be read.
    """
    if error.errno in OWN_WORDS:
        return UnreachableError(
            f"{what} could not be read",
            where=error.filename,
            found=error.strerror,
            hint=OWN_WORDS[error.errno],
        )
    hint = "check the network and AWS_ENDPOINT_URL (or that of your service), then run it again"
    if error.errno == errno.EACCES:
        hint = (
            "check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, "
            "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...), that they have not "
            "expired, and the region; of a public bucket AWS_SKIP_SIGNATURE=true"
        )
    return UnreachableError(
        f"{what} could not be read: the server or the credentials are the cause",
        where=error.filename,
        found=error.strerror,
        hint=f"{hint}: what was committed is kept",
    )


def fetch(place: Location) -> bytes | Exception:
    """Return an item's bytes, or what went wrong.

    Raises:
        UnreachableError: nothing can be read.
    """
    return fetch_together([place])[0]


def fetch_together(places: Sequence[Location]) -> list[bytes | Exception]:
    """Return the bytes of items of one request, or what went wrong with each.

    Args:
        places: of one item; of spans of one object; or of several members of one shard, ascending,
            which `group` has found to be near each other.

    Raises:
        UnreachableError: nothing can be read.
    """
    url = places[0].path
    try:
        if places[0].container:
            found: list[bytes | Exception] = [_contained(place) for place in places]
        elif places[0].size is None:
            found = [files.read(url)] * len(places)
        else:
            start, stop = _start(places[0]), max(map(_stop, places))
            data = files.read_range(url, start, stop - start)
            found = [_member(place, data, start) for place in places]
    except OSError as error:
        _REACHED.failed(url, error)
        return [error] * len(places)
    except ValueError as error:
        what = f"the URL cannot be read: {error}"
        return [ItemError(what, where=without_secret(url))] * len(places)
    _REACHED.read(url)
    return found


def _contained(place: Location) -> bytes | Exception:
    try:
        return read_contained(place)
    except OSError as error:
        if error.errno is not None:
            raise
        return error
    except Exception as error:  # whatever a damaged file makes its library raise
        return error


def _member(place: Location, data: bytes, start: int) -> bytes | Exception:
    assert place.size is not None
    first = place.offset - start
    content = data[first : first + place.size]
    if len(content) < place.size:
        return ItemError(TOO_SHORT)
    length, checksum = place.head or (0, 0)
    if place.head and zlib.crc32(data[first - length : first]) != checksum:
        return ItemError(PACKED_ANEW)
    return content


def group(places: Sequence[Location | None]) -> list[list[int]]:
    """Return which items are fetched with one request, by their numbers; None is of no URL.

    Args:
        places: of a batch, in its order.
    """
    groups: list[list[int]] = []
    for number, place in enumerate(places):
        if place is None:
            continue
        last = places[groups[-1][-1]] if groups else None
        if last is not None and _is_near(last, place, places[groups[-1][0]]):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _is_near(last: Location, place: Location, first: Location | None) -> bool:
    if first is None or last.path != place.path:
        return False
    if last.is_whole and place.is_whole:  # spans of one object, which is fetched once
        return True
    if last.size is None or place.size is None or last.container or place.container:
        return False
    gap = _start(place) - _stop(last)
    return 0 <= gap <= GAP and _stop(place) - _start(first) <= AT_ONCE


def _start(place: Location) -> int:
    return max(0, place.offset - (place.head[0] if place.head else 0))


def _stop(place: Location) -> int:
    return place.offset + (place.size or 0)
