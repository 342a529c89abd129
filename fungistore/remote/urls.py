"""Which texts are URLs of something remote, and how they are shown."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

SCHEMES = ("s3", "gs", "az", "abfs", "memory", "https", "http")
_SEPARATOR = "://"


def is_url(text: str) -> bool:
    """Whether a text is the URL of a bucket, or of a web server."""
    scheme, separator, _ = text.partition(_SEPARATOR)
    return bool(separator) and scheme.lower() in SCHEMES


def has_more(url: str) -> bool:
    """Whether a bucket's URL has more than a place: keys, a query, a fragment.

    All of it would be passed over: s3://b/run#1 and s3://b/run#2 would be one place. Azure's abfs://
    names the container before the host.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return False
    user, separator, _ = parts.netloc.rpartition("@")
    is_container = parts.scheme == "abfs" and ":" not in user
    return bool(separator and not is_container) or "?" in url or "#" in url


def shown(url: str) -> str:
    """Return a URL without the passwords and signatures that some carry."""
    parts = urlsplit(url)
    user, separator, host = parts.netloc.rpartition("@")
    if parts.scheme == "abfs":  # the container is before the host
        host = f"{user.partition(':')[0]}{separator}{host}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
