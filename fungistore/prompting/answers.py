"""Answers that a store keeps: a line each, written as they come, so that none is paid for twice."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from fungistore.fingerprint import Config, digest_bytes, fingerprint
from fungistore.prompting.endpoint import Answer
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.documents import seal_is_broken, sealed
from fungistore.store.store import Store

ANSWERS = "answers"
NAME_DIGITS = 16
FIELDS = tuple(Answer.__dataclass_fields__)
KEPT = "answers that were written are kept"


class Answers:
    """The answers of one model, by what it was asked; of any endpoint that serves it.

    Args:
        store: that keeps them; whoever writes into it holds `thing_of` the model.
        model: as the endpoint calls it.
    """

    def __init__(self, store: Store, model: str) -> None:
        self._folder, self._model = store.folder(ANSWERS), model
        self._name = f"{digest_bytes(model.encode())[:NAME_DIGITS]}.jsonl"
        self.read()

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Answer:
        return self._known[key]

    def read(self) -> None:
        """Read what is kept now; another process may have asked meanwhile."""
        self.damaged = 0  # lines that say nothing: cut short by a kill, or edited
        self._known: dict[str, Answer] = {}
        if self._folder.has(self._name):
            for line in self._folder.read(self._name).splitlines():
                self._take(line)

    def keep(self, key: str, answer: Answer) -> None:
        """Write an answer, durably.

        Raises:
            FungiError: there is no room for it.
        """
        line = sealed({"key": key, "model": self._model} | asdict(answer))
        backend = self._folder.backend
        with disk_errors_explained(self._folder.where(self._name), KEPT):
            backend.make_folder(self._folder.key)
            with backend.claims.moment():
                data = json.dumps(line).encode() + b"\n"
                backend.append(self._folder.key_of(self._name), data)
        self._known[key] = answer

    def _take(self, line: bytes) -> None:
        try:
            key, answer = parse_line(line)
        except ValueError:
            self.damaged += bool(line.strip())
        else:
            self._known[key] = answer


def parse_line(line: bytes) -> tuple[str, Answer]:
    """Return what was asked, and its answer.

    Raises:
        ValueError: the line says nothing: it was cut short, or edited.
    """
    try:
        document: dict[str, Any] = json.loads(line)
        key = document["key"]
        if seal_is_broken(document) or not isinstance(key, str):
            raise ValueError("it was edited")
        return key, Answer(**{name: document[name] for name in FIELDS})
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is no answer") from error


def thing_of(model: str) -> str:
    """Return what a writer holds while it asks a model."""
    return f"{ANSWERS}/{digest_bytes(model.encode())[:NAME_DIGITS]}"


def key_of(body: Config) -> str:
    """Return the key of a request: the model, the messages and the parameters, of any endpoint."""
    return fingerprint(body)
