"""A chat endpoint that misbehaves: what is asked again, what is not, and how long all waits."""

from __future__ import annotations

import html
import json
import socket
import struct
import threading
import time
from email.utils import formatdate
from urllib.parse import quote

import pytest
from prompt_world import said, stub

from feature_world import Notices
from fungistore.errors import FungiError, StoppedError, UsageError
from fungistore.machine.context import Context
from fungistore.prompting.asking import Asking, BackOff
from fungistore.prompting.endpoint import Answer, Endpoint, PassingError, _seconds

QUICK = BackOff(attempts=4, first=0.002, most=0.01)
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
DONE = Answer("fine", "stop", 7, 2)


def ask(server, *, count=1, concurrency=1, back_off=QUICK, timeout=5.0, context=None, key=None):
    """Ask `count` times; returns the answers by key."""
    endpoint = Endpoint.at(server.url, timeout, "K", {"K": key} if key else {})
    asking = Asking(endpoint, concurrency, back_off, context or Context())
    return dict(asking.answers((str(number), BODY) for number in range(count)))


def cut(handler):
    """Reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def half(handler):
    """Promise more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')


def asleep(handler):
    """Say nothing in time."""
    time.sleep(0.5)


def dripping(handler):
    """Send a good answer, each byte of it in time, and the last one too late."""
    data = json.dumps(said("late")).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) + 10))
    handler.end_headers()
    drip(handler, b" " * 10, data)


def dripping_headers(handler):
    """The same, slowly from the first line on."""
    data = json.dumps(said("late")).encode()
    length = b"Content-Length: %d\r\n\r\n" % len(data)
    drip(handler, b"HTTP/1.1 2", b"00 OK\r\n" + length + data)


def drip(handler, slowly, rest):
    for byte in slowly:
        time.sleep(0.05)
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
    handler.wfile.write(rest)


FAULTS = {
    "429": lambda handler: handler.send(429, {"error": {"message": "slow down"}}),
    "500": lambda handler: handler.send(500, {"error": "oh"}),
    "503 in HTML": lambda handler: handler.send(503, b"<html>busy</html>"),
    "nonsense": lambda handler: handler.send(200, b"\xff\xfe no json"),
    "nothing": lambda handler: handler.send(200, b""),
    "another shape": lambda handler: handler.send(200, {"answer": "fine"}),
    "a list": lambda handler: handler.send(200, []),
    "empty choices": lambda handler: handler.send(200, said("") | {"choices": []}),
    "no message": lambda handler: handler.send(200, {"choices": [{}]}),
    "deep": lambda handler: handler.send(200, b"[" * 100_000),
    "cut": cut,
    "half": half,
    "asleep": asleep,
    "dripping": dripping,
    "dripping headers": dripping_headers,
}


SLOW = ("asleep", "dripping", "dripping headers")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_asked_again(fault):
    """Twice it fails, then it is answered; what went wrong is said once."""
    heard = []

    def reply(handler, number, prompt):
        FAULTS[fault](handler) if number < 2 else handler.send(200, said("fine"))

    is_slow = fault in SLOW
    with stub(reply) as server:
        timeout = 0.25 if is_slow else 5.0
        assert ask(server, timeout=timeout, context=Context(Notices(heard))) == {"0": DONE}
    assert len(server.bodies) == 3 or is_slow  # on a busy machine a good answer may be late, too
    assert all(body == BODY for body in server.bodies)
    assert heard
    assert len(set(heard)) == len(heard)
    assert all(text.endswith("; asked again") for text in heard)


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (400, "--model"),
        (401, "--key-env"),
        (402, "credit"),
        (403, "--model"),
        (404, "--endpoint"),
        (413, "--k"),
        (422, "--model"),
        (302, "redirects"),
        (308, "redirects"),
    ],
)
def test_what_will_not_pass_is_asked_once(status, hint):
    """The error has the endpoint's own words, and says what to change; no redirect is followed."""
    with stub(
        lambda h, *_: h.send(status, {"error": {"message": "no\n way"}}, Location="/v1/x")
    ) as s:
        with pytest.raises(FungiError, match="endpoint refuses the request") as caught:
            ask(s)
        assert len(s.bodies) == 1
    assert str(status) in caught.value.found
    assert caught.value.found.endswith(": no way")
    assert hint in caught.value.hint
    assert caught.value.where == s.url + "/chat/completions"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no"}}, "no"),
        ({"error": "no"}, "no"),
        ({"detail": "Server is pinned"}, "Server is pinned"),
        ({"error": {"type": "odd"}}, '{"error": {"type": "odd"}}'),
        (b"<h1>no</h1>\n", "<h1>no</h1>"),
        (b"x" * 5000, "x" * 300 + "..."),
    ],
)
def test_the_endpoints_words_are_found(body, words):
    """As OpenAI has them, as FastAPI has them, and of what is no JSON its beginning."""
    refusing = stub(lambda handler, *_: handler.send(400, body))
    with refusing as server, pytest.raises(FungiError) as caught:
        ask(server)
    assert caught.value.found == f"400 Bad Request: {words}"


@pytest.mark.parametrize(
    "usage", [None, {}, [], {"prompt_tokens": "7"}, {"prompt_tokens": None}, {"prompt_tokens": -1}]
)
def test_an_answer_without_a_count_is_an_answer(usage):
    """It was paid for; so is one without words."""
    with stub(lambda handler, *_: handler.send(200, said("fine") | {"usage": usage})) as server:
        assert ask(server) == {"0": Answer("fine", "stop", 0, 0)}
        assert server.headers[0]["User-Agent"] == "fungi"
    with stub(lambda handler, *_: handler.send(200, said(None))) as server:
        assert ask(server)["0"].text == ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "spo"}, {"type": "text", "text": "rt"}], "sport"),
        ([{"type": "thinking", "thinking": [{"type": "text"}]}, {"text": "sport"}], "sport"),
        (["sport"], "sport"),
        ([], ""),
        (0, "0"),
    ],
)
def test_an_answer_in_parts_is_their_words(content, text):
    """As some endpoints send it, thoughts apart; no list of Python's is kept for it."""
    with stub(lambda handler, *_: handler.send(200, said(content))) as server:
        assert ask(server)["0"].text == text


def test_an_answer_is_one_with_201_and_a_mark_in_front():
    """It was paid for, however odd its envelope."""
    data = b"\xef\xbb\xbf" + json.dumps(said("fine")).encode()
    with stub(lambda handler, *_: handler.send(201, data)) as server:
        assert ask(server)["0"].text == "fine"


def test_an_account_without_credit_is_no_rate_limit():
    """OpenAI says both with 429."""
    error = {"error": {"message": "You exceeded", "code": "insufficient_quota"}}
    with stub(lambda handler, *_: handler.send(429, error)) as server:
        with pytest.raises(FungiError) as caught:
            ask(server)
        assert len(server.bodies) == 1
    assert "credit" in str(caught.value.hint)


def test_an_endpoint_that_keeps_failing_ends_the_run():
    """After so many attempts; what came is kept, and the same command goes on."""
    with stub(lambda handler, *_: handler.send(500, {})) as server:
        with pytest.raises(FungiError, match="failed 4 times in a row") as caught:
            ask(server)
        assert len(server.bodies) == 4
    assert "the same command" in str(caught.value.hint)
    assert "500 Internal Server Error" in str(caught.value.found)


def test_nobody_at_home_is_asked_again_too():
    """A server may be starting."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        url = f"http://127.0.0.1:{place.getsockname()[1]}"
    asking = Asking(Endpoint(url, 1.0), 1, QUICK, Context())
    with pytest.raises(FungiError, match="failed 4 times") as caught:
        list(asking.answers(iter([("0", BODY)])))
    assert "refused" in str(caught.value.found)


def test_a_pause_that_the_endpoint_asks_for_is_kept_by_all_requests():
    """Retry-After: those that were not refused themselves wait as well."""
    times, second = [], threading.Event()

    def reply(handler, number, prompt):
        times.append(time.monotonic())
        if number == 0:
            second.wait(5)
            handler.send(429, {}, Retry_After="0.3")
        else:
            second.set()
            time.sleep(0.1)  # until the first has been told
            handler.send(200, said("fine"))

    with stub(reply) as server:
        assert len(ask(server, count=4, concurrency=2)) == 4
    assert len(times) == 5
    assert min(times[2:]) - times[0] > 0.29


def test_a_pause_is_seconds_or_a_date():
    """What is neither, or is past, asks for none."""
    date = formatdate(time.time() + 90, usegmt=True)
    assert _seconds(" 12 ") == 12
    assert 85 < _seconds(date) <= 90
    assert _seconds(formatdate(0, usegmt=True)) == 0
    for odd in (None, "soon", "-3", "1e999", "9" * 400, "Thu, 99 Foo"):
        assert _seconds(odd) is None


def test_a_pause_of_hours_is_refused_and_told():
    """Nobody waits for that unasked."""
    with stub(lambda handler, *_: handler.send(429, {}, Retry_After="7200")) as server:
        with pytest.raises(FungiError, match="asks to wait for 7200 s"):
            ask(server)
        assert len(server.bodies) == 1


def test_waits_grow_and_differ_from_request_to_request():
    """By a named stream: the same for the same seed, whoever asks."""
    waits = [BackOff(seed=3).seconds("a", attempt) for attempt in range(8)]
    assert waits == [BackOff(seed=3).seconds("a", attempt) for attempt in range(8)]
    assert all(0.5 * min(60, 2**n) <= wait < 1.5 * min(60, 2**n) for n, wait in enumerate(waits))
    assert BackOff(seed=3).seconds("b", 0) != waits[0] != BackOff(seed=4).seconds("a", 0)


def test_so_many_are_asked_at_once_and_no_more():
    """--concurrency; each request is asked once."""
    lock, now, most = threading.Lock(), [0], [0]

    def reply(handler, number, prompt):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        handler.send(200, said("fine"))

    with stub(reply) as server:
        assert len(ask(server, count=12, concurrency=4)) == 12
        assert len(server.bodies) == 12
    assert most[0] == 4


@pytest.mark.parametrize("how", ["stop", "refusal", "no more prompts"])
def test_what_is_under_way_at_the_end_is_still_taken(how):
    """It is paid for: by a stop, another request's failure, or a text that cannot be read."""
    stopping, second = threading.Event(), threading.Event()

    def reply(handler, number, prompt):
        if prompt == "bad":
            second.wait(5)
            handler.send(401, {})
            return
        second.set()
        stopping.set()
        time.sleep(0.15)
        handler.send(200, said("fine"))

    def requests():
        yield "0", BODY
        if how == "refusal":
            yield "1", {**BODY, "messages": [{"role": "user", "content": "bad"}]}
        if how == "no more prompts":
            second.wait(5)
            raise FungiError("a text is gone")
        while True:
            yield "more", BODY

    came = []
    stop = stopping.is_set if how == "stop" else lambda: False
    with stub(reply) as server:
        asking = Asking(Endpoint.at(server.url, 5, "K", {}), 2, QUICK, Context(stop=stop))
        kind = StoppedError if how == "stop" else FungiError
        with pytest.raises(kind):
            came.extend(asking.answers(requests()))
    assert ("0", DONE) in came
    assert len(came) == len([one for one in server.prompts if one != "bad"])


def test_a_stop_ends_a_long_wait():
    """Back-off and pauses are slept in small pieces."""
    begun = time.monotonic()
    slow = BackOff(attempts=3, first=60)
    with stub(lambda handler, *_: handler.send(500, {})) as server:
        stop = lambda: bool(server.bodies)  # noqa: E731
        with pytest.raises(StoppedError):
            ask(server, back_off=slow, context=Context(stop=stop))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://h", "http://h/v1/chat/completions"),
        ("http://h:8/", "http://h:8/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("http://[::1]:80/openai/v1", "http://[::1]:80/openai/v1/chat/completions"),
    ],
)
def test_an_endpoint_is_named_by_any_part_of_its_url(given, url):
    assert Endpoint.at(given, 1, "K", {}).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://h/v1",
        "http://",
        "http://h:x/",
        "http://h/a b",
        "http://h\n.x/",
        "http://h:0/v1",
        "http://user:hunter2@h/v1",
        "https://h/v1?key=hunter2",
        "http://h/#hunter2",
    ],
)
def test_what_is_no_endpoint_is_refused_without_its_secrets(url):
    """The key comes from the environment alone."""
    with pytest.raises(UsageError) as caught:
        Endpoint.at(url, 1, "K", {})
    assert caught.value.where == "--endpoint"
    assert "hunter2" not in json.dumps(caught.value.to_json())


@pytest.mark.parametrize(
    "key", ["sk-secret\nX: y", "sk-secret\u00e9", "sk secret", "sk\x00-secret"]
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(key):
    """Line breaks at its ends are common, and dropped."""
    with pytest.raises(UsageError) as caught:
        Endpoint.at("http://h", 1, "K", {"K": key})
    assert "secret" not in str(caught.value)
    assert Endpoint.at("http://h", 1, "K", {"K": " sk-secret\n"}).key == "sk-secret"
    assert "secret" not in repr(Endpoint.at("http://h", 1, "K", {"K": "sk-secret"}))


def test_a_key_goes_where_it_belongs_and_nowhere_else():
    """Into one header; without one, no header; what echoes it is read without it."""
    with stub(lambda h, *_: h.send(400, {"error": {"message": "bad key sk-secret!"}})) as server:
        with pytest.raises(FungiError) as caught:
            ask(server, key="sk-secret")
        assert server.headers[0]["Authorization"] == "Bearer sk-secret"
        assert "secret" not in json.dumps(caught.value.to_json())
        assert caught.value.found.endswith("bad key [the key]!")
    with stub(lambda h, *_: h.send(200, said("it is sk-secret"))) as server:
        assert ask(server, key="sk-secret")["0"].text == "it is [the key]"
        ask(server)
        assert "Authorization" not in server.headers[1]


@pytest.mark.parametrize(
    ("status", "spell"),
    [
        (200, lambda key: json.dumps(said(f"it is {key}")).replace("/", "\\/")),
        (200, lambda key: json.dumps(said(f"it is {key}")).replace("<", "\\u003C")),
        (200, lambda key: json.dumps(said("", id=key) | {"choices": []}).replace("/", "\\/")),
        (401, lambda key: json.dumps({"error": {"message": "x" * 290 + key}})),
        (502, lambda key: html.escape(f"no {key}")),
        (404, lambda key: f"no /v1?key={quote(key)}"),
        (401, lambda key: f"Bearer {key.upper()}"),
    ],
)
def test_a_key_is_known_however_it_is_spelled(status, spell):
    """In JSON, HTML and URLs some characters are written in other ways; nor is it cut first."""
    key = 'a/b"c<d\\e-1234'
    with stub(lambda handler, *_: handler.send(status, spell(key).encode())) as server:
        endpoint = Endpoint.at(server.url, 5.0, "K", {"K": key})
        try:
            shown = str(endpoint.ask(BODY))
        except (PassingError, FungiError) as error:
            shown = str(error)
    assert "[the key]" in shown
    assert "1234" not in shown


@pytest.mark.parametrize("key", ["t", "x", "sport", "Sport", "content", "choices", "stop"])
def test_a_word_in_place_of_a_key_changes_no_answer(key):
    """Servers without keys are given one that is no secret; the request itself may have it."""
    body = BODY | {"messages": [{"role": "user", "content": "sport? Next: stop the choices"}]}
    with stub(lambda handler, *_: handler.send(200, said("Sport, next to it."))) as server:
        endpoint = Endpoint.at(server.url, 5.0, "K", {"K": key})
        assert endpoint.ask(body) == Answer("Sport, next to it.", "stop", 7, 2)


@pytest.mark.parametrize(
    ("url", "key", "is_unguarded"),
    [
        ("http://far.example", "k", True),
        ("http://far.example", "", False),
        ("http://localhost:1", "k", False),
        ("http://127.0.0.1:1", "k", False),
        ("https://far.example", "k", False),
    ],
)
def test_a_key_on_an_open_line_is_known(url, key, is_unguarded):
    assert Endpoint.at(url, 1, "K", {"K": key}).is_unguarded is is_unguarded


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    """As curl does; and not for hosts that are left out."""
    with stub(lambda handler, *_: handler.send(200, said("fine"))) as server:
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "other.example")
        endpoint = Endpoint.at("http://far.example/v1", 2, "K", {})
        assert endpoint.ask(BODY) == DONE
        assert server.paths == ["http://far.example/v1/chat/completions"]
        with pytest.raises(PassingError):
            Endpoint.at("http://other.example/v1", 2, "K", {}).ask(BODY)
        assert len(server.paths) == 1
