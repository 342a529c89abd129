"""A plain S3 server over a dictionary: what listing costs when the server costs next to nothing.

    python tests/plain_s3.py DIRECTORY SECONDS

serves the files of a directory, below its name in the bucket "plain", at a free port that it
prints. Every request takes so many seconds more; a line on its input asks how many came. moto scans
all keys of a bucket for each page of a listing, which takes seconds where there are many; this
server looks pages up in sorted keys. It checks no signature.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

BUCKET = "plain"
PAGE = 1000
DAY = "2020-01-01T00:00:00.000Z"


class PlainS3(ThreadingHTTPServer):
    """The server: objects by key, how long a request takes, and how many came."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, latency: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.latency = latency
        self.objects: dict[str, bytes] = {}
        self.keys: list[str] = []
        self.requests: Counter[str] = Counter()
        self.gets: list[str] = []  # keys of objects that were read
        self.looks: list[str] = []  # of those that were looked at

    def put(self, key: str, data: bytes) -> None:
        """Let an object be there."""
        if key not in self.objects:
            self.keys.insert(bisect_left(self.keys, key), key)
        self.objects[key] = data

    def load(self, folder: Path) -> None:
        """Take the files of a directory, below its name."""
        for path in folder.rglob("*"):
            if path.is_file() and ".locks" not in path.parts:
                key = path.relative_to(folder.parent).as_posix()
                self.objects[key] = path.read_bytes()
        self.keys = sorted(self.objects)

    def page(self, prefix: str, delimiter: str, after: str) -> tuple[list[str], list[str], str]:
        """Return keys and common prefixes of one page, and after what the next one begins."""
        found, folders = [], []
        at = bisect_right(self.keys, after) if after >= prefix else bisect_left(self.keys, prefix)
        while at < len(self.keys) and self.keys[at].startswith(prefix):
            if len(found) + len(folders) == PAGE:
                return found, folders, after
            name = self.keys[at][len(prefix) :]
            if delimiter and delimiter in name:
                folders.append(prefix + name.partition(delimiter)[0] + delimiter)
                after = folders[-1] + "\U0010ffff"
                at = bisect_right(self.keys, after)
            else:
                after = self.keys[at]
                found.append(after)
                at += 1
        return found, folders, ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: PlainS3

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def serve(self) -> None:
        """Answer one request."""
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests[self.command] += 1
        time.sleep(self.server.latency)
        key = unquote(parts.path).removeprefix(f"/{BUCKET}").strip("/")
        if self.command == "PUT":
            self._put(key, body)
        elif self.command == "POST":  # which removes several
            self._remove(map(unescape, re.findall("<Key>(.*?)</Key>", body.decode())))
        elif not key:
            self._list(dict(parse_qsl(parts.query)))
        elif key not in self.server.objects:
            self._say(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            (self.server.gets if self.command == "GET" else self.server.looks).append(key)
            self._get(self.server.objects[key])

    def _put(self, key: str, data: bytes) -> None:
        there, wanted = self.server.objects.get(key), self.headers.get("If-Match")
        is_new = self.headers.get("If-None-Match") is None or there is None
        if not is_new or (wanted is not None and (there is None or _tag(there) != wanted)):
            self._say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.server.put(key, data)
        self._say(200, b"", ETag=_tag(data))

    def _remove(self, keys: Iterable[str]) -> None:
        said = []
        for key in keys:
            if self.server.objects.pop(key, None) is not None:
                self.server.keys.remove(key)
            said.append(f"<Deleted><Key>{escape(key)}</Key></Deleted>")
        self._say(200, f"<DeleteResult>{''.join(said)}</DeleteResult>".encode())

    def _get(self, data: bytes) -> None:
        tag, whole = _tag(data), len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self._say(200, data, ETag=tag)
            return
        start, stop = int(asked[1]), min(int(asked[2] or whole) + 1, whole)
        said = f"bytes {start}-{stop - 1}/{whole}"
        self._say(206, data[start:stop], **{"ETag": tag, "Content-Range": said})

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", query.get("start-after", ""))
        keys, folders, token = self.server.page(prefix, delimiter, after)
        objects = self.server.objects
        rows = [
            f"<Contents><Key>{escape(key)}</Key><LastModified>{DAY}</LastModified>"
            f"<ETag>{_tag(objects[key])}</ETag><Size>{len(objects[key])}</Size></Contents>"
            for key in keys
        ]
        rows += [
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders
        ]
        if token:
            rows.append(f"<NextContinuationToken>{escape(token)}</NextContinuationToken>")
        more = "true" if token else "false"
        head = f"<Name>{BUCKET}</Name><KeyCount>{len(rows)}</KeyCount>"
        text = f"{head}<IsTruncated>{more}</IsTruncated>{''.join(rows)}"
        self._say(200, f"<ListBucketResult>{text}</ListBucketResult>".encode())

    def _say(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", formatdate(usegmt=True))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


for _method in ("GET", "PUT", "POST", "HEAD"):
    setattr(_Handler, f"do_{_method}", _Handler.serve)


TAGS: dict[bytes, str] = {}


def _tag(data: bytes) -> str:
    if data not in TAGS:
        TAGS[data] = f'"{hashlib.md5(data).hexdigest()}"'
    return TAGS[data]


def main() -> None:
    """Serve a directory."""
    server = PlainS3(float(sys.argv[2]))
    server.load(Path(sys.argv[1]))
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for _ in sys.stdin:
        print(dict(server.requests), flush=True)
        server.requests.clear()


if __name__ == "__main__":
    main()
