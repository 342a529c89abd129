"""Credentials that only Amazon's service of a machine could give: found out in seconds if none can.

obstore asks that service where there are no others, for two minutes. Off Amazon's machines its
address answers nobody, and mostly drops what is sent there.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from urllib.parse import urlsplit

from fungistore.remote.credentials import ELSEWHERE
from fungistore.remote.refusals import NO_CREDENTIALS

DISABLED = "AWS_EC2_METADATA_DISABLED"
ENDPOINT = "AWS_METADATA_ENDPOINT"
USUAL = "http://169.254.169.254"
AGAIN_SECONDS = 10.0
CONNECT_SECONDS = 2.0  # of two machines of one rack; others of Amazon's tools allow one
TRUE = ("1", "true", "yes", "on", "t", "y")  # as obstore reads it


def machine_check(
    config: Mapping[str, str], environment: Mapping[str, str]
) -> Callable[[str], None] | None:
    """Return what refuses a request if nobody can sign it; None where there are credentials.

    Args:
        config: obstore's, of an S3 bucket.
        environment: the process's variables.
    """
    given = (config.get("access_key_id"), environment.get("AWS_ACCESS_KEY_ID"))
    is_unsigned = environment.get("AWS_SKIP_SIGNATURE", "").lower() in TRUE
    is_asked_through = environment.get("http_proxy") or environment.get("HTTP_PROXY")
    if any(given) or is_unsigned or is_asked_through or any(map(environment.get, ELSEWHERE)):
        return None
    if environment.get(DISABLED, "").lower() in TRUE:
        return _refuse
    return Once(partial(_connect, environment.get(ENDPOINT) or USUAL))


class Once:
    """A check that passes once, and is not made again right after it has refused a request."""

    def __init__(self, check: Callable[[str], None]) -> None:
        self._check = check
        self._lock = Lock()  # many threads ask at once
        self._passed = False
        self._refused = -AGAIN_SECONDS

    def __call__(self, where: str) -> None:
        """Raise what the check raises.

        Raises:
            PermissionError: there are no credentials.
        """
        if self._passed:
            return
        with self._lock:
            if time.monotonic() - self._refused < AGAIN_SECONDS:
                _refuse(where)
            try:
                if not self._passed:
                    self._check(where)
            except PermissionError:
                self._refused = time.monotonic()
                raise
            self._passed = True


def _connect(url: str, where: str) -> None:
    parts = urlsplit(url)
    place = parts.hostname or "", parts.port or 80
    try:
        socket.create_connection(place, CONNECT_SECONDS).close()
    except OSError:
        _refuse(where)


def _refuse(where: str) -> None:
    raise PermissionError(errno.EACCES, NO_CREDENTIALS, where)
