"""Which texts are URLs of something remote, and how they are shown."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

SCHEMES = ("s3", "gs", "az", "abfs", "memory", "https", "http")
_SEPARATOR = "://"


def is_url(text: str) -> bool:
    """Whether a text is the URL of a bucket, or of a web server."""
    scheme, separator, _ = text.partition(_SEPARATOR)
    return bool(separator) and scheme.lower() in SCHEMES


def shown(url: str) -> str:
    """Return a URL without the passwords and signatures that some carry."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
