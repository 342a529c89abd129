"""obstore's threads do not survive a fork: a forked process is told so, where it would hang."""

from __future__ import annotations

import os
from functools import cache

from fungistore.errors import FungiError


@cache
def _first() -> int:
    """Return the process that asked first; a forked one has its answer."""
    return os.getpid()


def refuse_fork() -> None:
    """Return if this process may ask a server.

    Raises:
        FungiError: it was forked from one that has; its requests would never be answered.
    """
    if _first() != os.getpid():
        raise FungiError(
            "a forked process cannot read from a URL: the threads of its parent's requests are "
            "not in it",
            expected="processes that were started anew",
            hint='DataLoader(..., multiprocessing_context="spawn"), or fungi copy to a directory',
        )
