"""A small HTTP proxy in front of a server, which breaks some requests and delays all of them.

The faults are those of real networks: the server says 500 or 503, nothing answers, or the
connection is cut, before the request was handed on or after it, when the server has done what it
was asked and nobody is told.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "timeout", "cut-before", "cut-after")
HOP = {"connection", "keep-alive", "transfer-encoding", "proxy-connection"}


@dataclass
class Faults:
    """What goes wrong; it may be changed while requests are under way.

    Attributes:
        rate: of the requests that are broken.
        kinds: of faults, chosen among at random.
        latency: seconds that every request takes more.
        timeout: seconds for which a request that times out hears nothing.
        seed: of the choices.
        requests: how many came, by method.
        broken: how many were broken, by kind.
        bytes: how many bodies' bytes went back.
        most: how many were under way at once, at most.
        stored: how often the server took an object, by its path.
    """

    rate: float = 0.0
    kinds: tuple[str, ...] = FAULTS
    latency: float = 0.0
    timeout: float = 2.0
    seed: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    most: int = 0
    stored: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._now = 0

    def choose(self, method: str) -> str | None:
        """Return the fault of a request that comes, None where it is served."""
        with self._lock:
            self.requests[method] += 1
            self._now += 1
            self.most = max(self.most, self._now)
            if self._random.random() >= self.rate:
                return None
            kind = self._random.choice(self.kinds)
            self.broken[kind] += 1
            return kind

    def took(self, path: str) -> None:
        """Note that the server has taken an object."""
        with self._lock:
            self.stored[path] += 1

    def ended(self, sent: int) -> None:
        """Note that a request is done with."""
        with self._lock:
            self._now -= 1
            self.bytes += sent


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a body waits 40 ms for the client's word on its head
    server: _Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client has gone
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def serve(self) -> None:
        """Serve one request, or break it."""
        faults, sent = self.server.faults, 0
        body = self._body()
        fault = faults.choose(self.command)
        try:
            time.sleep(faults.latency)
            if fault == "cut-before":
                self._cut()
            elif fault == "timeout":
                time.sleep(faults.timeout)
                self._cut()
            elif fault in ("500", "503"):
                self._say_broken(int(fault))
            else:
                answer, data = self._ask(body)
                if fault == "cut-after":
                    self._cut()
                else:
                    sent = len(data)
                    self._answer(answer, data)
        finally:
            faults.ended(sent)

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _ask(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        """Hand the request on, with the host that its signature covers."""
        asked = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        try:
            asked.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    asked.putheader(name, value)
            asked.endheaders(body)
            answer = asked.getresponse()
            data = answer.read()
            if self.command == "PUT" and answer.status == http.client.OK:
                self.server.faults.took(urlsplit(self.path).path)
            return answer, data
        finally:
            asked.close()

    def _answer(self, answer: http.client.HTTPResponse, data: bytes) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP | {"content-length"}:
                self.send_header(name, value)
        told = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", told or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _say_broken(self, status: int) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()


for _method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.serve)


class _Server(ThreadingHTTPServer):
    """The proxy's server."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: str, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        parts = urlsplit(target)
        self.host, self.port, self.faults = parts.hostname or "", parts.port or 80, faults

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that goes away is what is tested."""


@contextmanager
def proxied(target: str, faults: Faults) -> Iterator[str]:
    """Yield the endpoint of a proxy before a server."""
    server = _Server(target, faults)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
