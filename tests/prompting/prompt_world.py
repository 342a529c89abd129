"""Stores of labelled texts with given features, and an endpoint that may misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from feature_world import ListSource, clustered, write_block
from fungistore.location import inline_uri
from fungistore.sources.sample import Sample
from fungistore.store.listing import add_source
from fungistore.store.store import Store

CLASSES = ("sport", "weather", "food")
Reply = Callable[["Handler", int, str], None]  # gets the request's number and its prompt


def make_texts(
    root: Path,
    texts: Sequence[str],
    labels: Sequence[str | None],
    splits: Sequence[str | None],
    *,
    noise: float = 1.0,
    unit_rows: int = 16,
) -> Store:
    """Write a store of texts that stand in the table, with embeddings and KL gradients by class."""
    samples = [
        Sample(f"t{row:04d}", inline_uri(text.encode()), label, split)
        for row, (text, label, split) in enumerate(zip(texts, labels, splits, strict=True))
    ]
    store = Store.open_or_create(root)
    add_source(store, ListSource(samples))
    store.commit(modality="text")
    for seed, name in enumerate(("embeddings", "gradients/kl")):
        vectors, _ = clustered(len(texts), len(CLASSES), 8, seed=seed, noise=noise)
        write_block(store, "set", name, vectors, unit_rows=unit_rows)
    return Store.open(root)


def news(root: Path, train: int = 30, test: int = 9, **changes: Any) -> Store:
    """Write a store of short reports of three classes in turn."""
    count = train + test
    labels = [CLASSES[row % 3] for row in range(count)]
    texts = [f"report {row} of {{label}} matters" for row in range(count)]
    splits = ["train"] * train + ["test"] * test
    return make_texts(root, texts, labels, splits, **changes)


def said(text: str, **more: Any) -> dict[str, Any]:
    """Return a chat completion with some words."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}} | more


class Handler(BaseHTTPRequestHandler):
    """Answers as its server's reply does."""

    server: Stub

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(json.loads(data))
            self.server.headers.append(dict(self.headers))
            self.server.paths.append(self.path)
        self.server.reply(self, number, self.server.bodies[number]["messages"][0]["content"])

    def send(self, status: int, content: object, **headers: str) -> None:
        """Send a status with JSON, or with bytes as they are."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class Stub(ThreadingHTTPServer):
    """A chat endpoint that keeps what it was asked."""

    daemon_threads = True

    def __init__(self, reply: Reply) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.lock = reply, threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone."""


@contextmanager
def stub(reply: Reply) -> Iterator[Stub]:
    """Serve an endpoint."""
    with Stub(reply) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def vote(handler: Handler, number: int, prompt: str) -> None:
    """Say the label that most examples have, as a small model might: with a full stop."""
    found = [line.removeprefix("Label: ") for line in prompt.splitlines() if "Label: " in line]
    handler.send(200, said(f" {max(CLASSES, key=found.count).title()}."))


def votes(store: Store, features: Sequence[str], k: int, queries: Sequence[int]) -> np.ndarray:
    """Return what `vote` says by a plain search: the labels of some rows."""
    from fungistore.matrices.blocks import open_features

    _, vectors = open_features(store, features).load()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels, train = store.samples.labels(), store.samples.splits()["train"]
    near = np.argsort(-(vectors[queries] @ vectors[train].T), axis=1, kind="stable")[:, :k]
    names = np.array(store.manifest.labels)
    order = {name: number for number, name in enumerate(CLASSES)}
    given = np.array([order[name] for name in names])[labels[train][near]]
    best = [np.bincount(row, minlength=3).argmax() for row in given]
    return np.array([names.tolist().index(CLASSES[one]) for one in best])
