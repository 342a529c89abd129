"""The user's cache: what was fetched or made once, and can be again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """Return `$FUNGI_CACHE`, or `$XDG_CACHE_HOME/fungi`, or `~/.cache/fungi`; it need not exist."""
    if own := os.environ.get("FUNGI_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "fungi"
