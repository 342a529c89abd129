"""Paths and URLs of things, joined, taken apart and told from each other as text alone.

pathlib reads `s3://bucket` as `s3:/bucket`, so what may be a URL goes through here.
"""

from __future__ import annotations

import os
import posixpath
import re
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote, unquote

from fungistore.errors import UsageError
from fungistore.remote.urls import SCHEMES, is_url, shown

WEB = ("http", "https")
_EATEN = re.compile(rf"({'|'.join(SCHEMES)}):/(?!/)", re.IGNORECASE)  # by pathlib
_ROOT = re.compile(r"([A-Za-z0-9+.-]+://[^/?#]*)/*")
# In the place of a query: two URLs that differ by theirs stay two, and no signature is kept.
LEFT_OUT = "?left-out="


def as_text(path: str | Path) -> str:
    """Return a path, or a URL that was passed as a path, as text."""
    text = str(path)
    return _EATEN.sub(r"\1://", text, count=1) if isinstance(path, Path) else text


def is_web(url: str) -> bool:
    """Whether a URL is of a web server, which gives objects and lists none."""
    return url.partition("://")[0].lower() in WEB and is_url(url)


def absolute(path: str | Path) -> str:
    """Return a path from the root of the disk, or a URL without a slash at its end."""
    text = as_text(path)
    return text.rstrip("/") if is_url(text) else str(Path(text).absolute())


def joined(root: str, path: str) -> str:
    """Return where a path leads that starts at a root; either may be a URL.

    A path is no URL: below a web server its odd letters are percent-encoded. What begins with a
    slash is a path of the disk, wherever it is written.
    """
    if is_url(path):
        return path
    if not is_url(root):
        return str(Path(root, path))
    if path.startswith("/"):
        return path
    parts = path.split("/")
    if "." in parts or ".." in parts:
        bucket, below = _halves(root)
        path = posixpath.normpath(f"/{'' if is_web(root) else below}/{path}").lstrip("/")
        if not is_web(root):
            return f"{bucket}/{path}"
        whole = posixpath.normpath(f"/{unquote(below)}/{'/'.join(parts)}").lstrip("/")
        return f"{bucket}/{quote(whole)}"
    return f"{root.rstrip('/')}/{quote(path) if is_web(root) else path}"


def parent(path: str) -> str:
    """Return the folder that a file is in, absolute."""
    path = absolute(path)
    if not is_url(path):
        return str(Path(path).parent)
    bucket, below = _halves(path)
    folder = posixpath.dirname(below)
    return f"{bucket}/{folder}" if folder else bucket


def name_of(path: str) -> str:
    """Return the last part of a path, or of a URL as people read it."""
    name = os.path.basename(path.rstrip("/"))
    return unquote(name) if is_web(path) else name


def relative(path: str, root: str) -> str:
    """Return the path of something from a root; of something elsewhere, what it is there."""
    if not is_url(path):
        return path if is_url(root) else os.path.relpath(path, root)
    below = path.removeprefix(root.rstrip("/") + "/")
    return path if below == path else unquote(below) if is_web(root) else below


def common(paths: list[str]) -> str:
    """Return the folder that all of some files are below.

    Raises:
        ValueError: there is none.
    """
    if not any(map(is_url, paths)):
        return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    halves = [_halves(parent(path)) for path in paths]
    if len({bucket for bucket, _ in halves}) > 1:
        raise ValueError("they are of several buckets")
    folder = posixpath.commonpath([f"/{below}" for _, below in halves]).strip("/")
    return f"{halves[0][0]}/{folder}".rstrip("/")


def split_url(url: str) -> tuple[str, str]:
    """Return the URL of the bucket or server, and the key of an object in it.

    Raises:
        ValueError: a web server's URL has a query, or letters that are not UTF-8.
    """
    bucket, key = _halves(url)
    if is_web(url):
        if "?" in key:
            raise ValueError("its query is not kept, since it may hold a signature")
        key = unquote(key.partition("#")[0], errors="strict")
    return bucket, key


def _halves(url: str) -> tuple[str, str]:
    found = _ROOT.match(url)
    assert found is not None, "only URLs are asked about"
    return found[1], url[found.end() :]


def has_secret(url: str) -> bool:
    """Whether a URL may hold a password or a signature: a user, or a query."""
    if not is_web(url):
        return False
    host = url.partition("://")[2].partition("/")[0]
    return "@" in host or "?" in url


def without_secret(url: str) -> str:
    """Return a URL that may be kept; in the place of a query is a digest, by which it differs."""
    if not has_secret(url):
        return url
    secret = url.partition("?")[2]
    bare = shown(url)
    if "@" in url.partition("://")[2].partition("/")[0] and not secret:
        secret = url
    return f"{bare}{LEFT_OUT}{blake2b(secret.encode(), digest_size=8).hexdigest()}"


def refuse_secrets(url: str) -> None:
    """Refuse the URL of a source that holds a password or a signature.

    Raises:
        UsageError: it would be kept in the store, as the root of its samples.
    """
    if has_secret(url):
        raise UsageError(
            "a URL with a query or a password is not taken: it would be kept in the store",
            where=shown(url),
            expected="a URL that anybody may read, or s3://, gs:// or az:// with credentials in "
            "the environment",
            hint="give the bucket's own URL instead of a signed one, or download it first "
            "(curl -O)",
        )
