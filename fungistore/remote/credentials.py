"""What obstore is told besides a URL: nothing that is secret is printed or stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit


def settings_of(url: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return obstore's arguments for a URL.

    obstore reads the variables of each service itself (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...),
    and Google's standard file.

    Args:
        url: of a bucket.
        environment: the process's variables.
    """
    plain_http = environment.get("AWS_ENDPOINT_URL", "").startswith("http://")
    if urlsplit(url).scheme == "s3" and plain_http:
        return {"client_options": {"allow_http": True}}
    return {}
