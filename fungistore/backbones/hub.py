"""The model hub, where it cannot be reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from socket import gaierror, getaddrinfo
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants


@contextmanager
def hub_asked_once() -> Iterator[None]:
    """Do without the half minute of retries where the hub's address is not even known.

    What was downloaded before is found all the same.
    """
    host = urlsplit(constants.ENDPOINT).hostname
    before = constants.HF_HUB_OFFLINE
    try:
        if not getproxies():
            getaddrinfo(host, None)
    except gaierror:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
