"""One request to a chat endpoint that speaks as OpenAI's does, and what its answer means.

The standard library's HTTP: proxies as the environment has them, and no redirect followed, which
would hand the key to another host.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from html import escape
from time import time
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from fungistore.errors import FungiError, UsageError
from fungistore.fingerprint import Config

COMPLETIONS = "/chat/completions"
LOCAL = ("localhost", "127.0.0.1", "::1")
MOST_BYTES = 1 << 24  # of an answer
SAID = 300  # characters of what the endpoint says that an error repeats
PASSING = (408, 409, 425, 429)  # statuses below 500 that may be others later
NO_CREDIT = "insufficient_quota"  # OpenAI says it with 429, and no waiting helps
HIDDEN = "[the key]"
AGENT = "fungi"  # some hosts turn Python's own name away
HINTS = {
    400: "the endpoint's own words say what it does not take: a smaller --k or --max-characters "
    "where the prompt is too long, or another --model",
    401: "export the key in the variable that --key-env names (OPENAI_API_KEY)",
    402: "the account has no credit left; the same command goes on where it stopped",
    403: "the key may not use this --model, or not from here",
    404: "--endpoint ends before /chat/completions, as in https://api.openai.com/v1; --model is "
    "one that the endpoint lists under /models",
    413: "a smaller --k or --max-characters",
    422: "another --model, or another --max-tokens",
}


class PassingError(Exception):
    """What may go better when it is asked again.

    Attributes:
        wait: the seconds that the endpoint asks to wait, None where it does not.
    """

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: its words; "" where it has none.
        finish: why it ended, as the endpoint has it: "stop", "length".
        prompt_tokens, completion_tokens: what the endpoint counts, and bills; 0 where it does not.
    """

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Endpoint:
    """Where answers are asked for.

    Attributes:
        url: of the chat completions.
        timeout: seconds for a request, from its start to its last byte.
        key: what the endpoint knows its user by; of no representation.
    """

    url: str
    timeout: float
    key: str | None = field(default=None, repr=False)

    @classmethod
    def at(cls, url: str, timeout: float, variable: str, environment: Mapping[str, str]) -> Self:
        """Return the endpoint at a URL, with the key of a variable of the environment.

        Raises:
            UsageError: the URL is none, or the key cannot be sent.
        """
        return cls(_completions(url), timeout, _key(variable, environment))

    @property
    def is_unguarded(self) -> bool:
        """Whether the key goes over a network for all to read."""
        place = urlsplit(self.url)
        return self.key is not None and place.scheme == "http" and place.hostname not in LOCAL

    def ask(self, body: Config) -> Answer:
        """Return the answer to a chat completion's request.

        Raises:
            PassingError: it may succeed later.
            FungiError: it will not; the error says what to change.
        """
        hidden = _hiding(self.key, json.dumps(body, ensure_ascii=False))
        status, wait, data = self._post(json.dumps(body).encode(), hidden)
        text = data.decode("utf-8-sig", "replace")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        if not 200 <= status < 300:  # 201 is what some servers say of every answer
            words = _shortened(hidden(_words_of(document, text)))
            raise _refusal(self.url, status, wait, words, NO_CREDIT in text)
        try:
            choice = document["choices"][0]
            content, finish = choice["message"]["content"], choice.get("finish_reason")
        except (TypeError, KeyError, IndexError, AttributeError):
            said = "no answer in what the endpoint sent: "
            raise PassingError(said + (_shortened(hidden(text)) or "nothing")) from None
        counts = (_tokens(document, kind) for kind in ("prompt", "completion"))
        return Answer(hidden(_said(content)), hidden(str(finish or "")), *counts)

    def _post(self, body: bytes, hidden: Callable[[str], str]) -> tuple[int, float | None, bytes]:
        """Return the status, the seconds to wait, and the bytes of what the endpoint says."""
        headers = {"Content-Type": "application/json", "User-Agent": AGENT}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        with _deadline(self.timeout) as sockets:
            try:
                with _opener(sockets).open(request, timeout=self.timeout) as response:
                    data = response.read(MOST_BYTES)
                    return response.status, _seconds(response.headers.get("Retry-After")), data
            except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
                found = getattr(error, "reason", error)
                late = isinstance(found, TimeoutError) or sockets.is_over
                said = f"no whole answer within {self.timeout:g} s" if late else str(found)
                raise PassingError(hidden(said) or type(found).__name__) from None


class _Sockets(list[socket.socket]):
    """The connections of a request, and whether its time is over."""

    is_over = False


@contextmanager
def _deadline(seconds: float) -> Iterator[_Sockets]:
    """Yield a list of sockets that are shut when the time is over, however slowly bytes drip."""
    sockets = _Sockets()

    def end() -> None:
        sockets.is_over = True
        for one in sockets:
            with suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # TLS's own would wait for the lock

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield sockets
    finally:
        timer.cancel()


def _opener(sockets: list[socket.socket]) -> urllib.request.OpenerDirector:
    """Return what opens a URL, noting its connections; statuses are no errors and lead nowhere."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class Guarded(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Plain, request)

    class GuardedHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Guarded, request)

    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), PlainHandler(), GuardedHandler()):
        opener.add_handler(handler)
    return opener


def _completions(url: str) -> str:
    """Return the URL of an endpoint's chat completions, whichever part of it was given."""
    try:
        place = urlsplit(url)
        is_place = place.scheme in ("http", "https") and bool(place.hostname)
        has_port = place.port is None or place.port > 0
    except ValueError:
        is_place = has_port = False
    if not (is_place and has_port and url.isascii() and url.isprintable() and " " not in url):
        raise UsageError(
            "this is no endpoint",
            where="--endpoint",
            expected="http:// or https://, a host, and a path such as /v1",
            found=None if "@" in url else repr(url),
            hint="--endpoint http://localhost:8000/v1",
        )
    if place.username is not None or place.query or place.fragment:
        raise UsageError(  # what is in it is not repeated: it may be a secret
            "the endpoint has more than a host and a path",
            where="--endpoint",
            expected=f"{place.scheme}://{place.hostname}/v1; the key from the environment alone",
            hint="export OPENAI_API_KEY, or another variable and --key-env NAME",
        )
    path = place.path.rstrip("/")
    if not path.endswith(COMPLETIONS):
        path = (path or "/v1") + COMPLETIONS
    return urlunsplit((place.scheme, place.netloc, path, "", ""))


def _key(variable: str, environment: Mapping[str, str]) -> str | None:
    key = environment.get(variable, "").strip()
    if not re.fullmatch("[!-~]*", key):
        raise UsageError(
            "the key has characters that no key has: blanks, line breaks, or letters beyond ASCII",
            where=f"${variable}",
            hint=f"export {variable} anew, with the key alone",
        )
    return key or None


def _refusal(
    url: str, status: int, wait: float | None, words: str, is_broke: bool
) -> PassingError | FungiError:
    said = f"{status} {http.client.responses.get(status, '')}".strip()
    if (status >= 500 or status in PASSING) and not is_broke:
        return PassingError(f"{said}: {words}" if words else said, wait)
    hint = "--endpoint as it is after its redirects" if 300 <= status < 400 else None
    return FungiError(
        "the endpoint refuses the request",
        where=url,
        found=f"{said}: {words}" if words else said,
        hint=HINTS[402] if is_broke else HINTS.get(status, hint),
    )


def _words_of(document: object, text: str) -> str:
    """Return what an endpoint says of an error."""
    said: object = document
    for name in ("error", "message", "detail"):
        said = said.get(name, said) if isinstance(said, dict) else said
    return said if isinstance(said, str) else text


def _said(content: object) -> str:
    """Return an answer's words; of one in parts, those of its texts, and no thoughts."""
    if isinstance(content, list):
        parts = (one.get("text") if isinstance(one, dict) else one for one in content)
        return "".join(part for part in parts if isinstance(part, str))
    return "" if content is None else str(content)


def _hiding(key: str | None, request: str) -> Callable[[str], str]:
    """Return what blots a key out, however a server spells it: in JSON, HTML or a URL.

    What the request itself says is no secret: a server without keys is often given a word like
    "none" or "x", which answers are full of.
    """
    if not key or key.casefold() in request.casefold():
        return str
    pattern = re.compile("".join(map(_spellings, key)), re.IGNORECASE)
    return lambda text: pattern.sub(HIDDEN, text)


def _spellings(one: str) -> str:
    """Return a pattern of what a character of ASCII may be written as."""
    code, in_html = ord(one), re.escape(escape(one))
    in_json = rf"\\?{re.escape(one)}|\\u00{code:02x}"
    return f"(?:{in_json}|%{code:02x}|{in_html}|&#(?:0*{code}|x0*{code:x});)"


def _tokens(document: Mapping[str, Any], kind: str) -> int:
    """Return what an endpoint counts; an answer without, or with an odd count, is one as well."""
    usage = document.get("usage")
    count = usage.get(f"{kind}_tokens") if isinstance(usage, dict) else 0
    return count if type(count) is int and count >= 0 else 0


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SAID else f"{line[:SAID]}..."


def _seconds(header: str | None) -> float | None:
    """Return the seconds of a Retry-After: a number of them, or a date."""
    if header is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,9}(\.[0-9]*)?\s*", header):
        return float(header)
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    return None
