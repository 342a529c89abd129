"""The user's cache: what was fetched or made once, and can be again."""

from __future__ import annotations

import os
from pathlib import Path

from fungistore.errors import UsageError


def user_cache() -> Path:
    """Return `$FUNGI_CACHE`, or `$XDG_CACHE_HOME/fungi`, or `~/.cache/fungi`; it need not exist.

    Raises:
        UsageError: who runs this has no home, as in some containers.
    """
    place = os.environ.get("FUNGI_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "fungi"
    )
    try:
        return Path(place).expanduser().absolute()
    except RuntimeError:
        raise UsageError(
            "there is no home folder for the user's cache",
            where=place,
            hint="set HOME, or FUNGI_CACHE to a folder",
        ) from None
