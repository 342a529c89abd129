"""The samples that prompts are made of, with their texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fungistore.errors import FungiError, ItemError
from fungistore.location import absolute_uri, shortened
from fungistore.modalities.reading import read_item
from fungistore.store.samples import Rows
from fungistore.store.store import Store

TEXT = "text"  # the modality whose items go into a prompt
HELD_CHARACTERS = 32_000_000  # of texts: those of near rows are asked for again and again
CUT = " ..."


@dataclass(frozen=True)
class Item:
    """A sample as a prompt has it.

    Attributes:
        id: its id.
        label: name of its class, or None.
        text: what it says; None where it is no text.
        uri: where it is, the same below any root.
    """

    id: str
    label: str | None
    text: str | None
    uri: str

    def to_json(self) -> dict[str, str | None]:
        """Return a JSON-ready dictionary with the text, or with the uri of what has none."""
        content = {"uri": self.uri} if self.text is None else {"text": self.text}
        return {"id": self.id, "label": self.label} | content


class Items:
    """The samples of a store by their rows; the last ones are kept in memory.

    Args:
        store: the store.
        most: characters of a text; what is longer is cut.
    """

    def __init__(self, store: Store, most: int | None) -> None:
        self._store, self._most = store, most
        self._modality = store.modality
        self._held: dict[int, Item] = {}
        self._characters = 0
        self._cut: set[int] = set()

    @property
    def are_texts(self) -> bool:
        """Whether they have texts."""
        return self._modality.name == TEXT

    @property
    def cut(self) -> int:
        """How many texts were cut so far."""
        return len(self._cut)

    def take(self, rows: Rows) -> dict[int, Item]:
        """Return some rows' samples.

        Raises:
            FungiError: a text cannot be read again.
        """
        wanted = np.unique(rows).tolist()
        if self._characters > HELD_CHARACTERS:
            self._held, self._characters = {}, 0
        missing = [row for row in wanted if row not in self._held]
        for sample in self._store.samples.take(missing):
            label = sample["label"]
            text = self._text(sample["row"], sample["root"], sample["uri"])
            item = Item(
                sample["id"],
                None if label is None else self._store.manifest.labels[label],
                text,
                absolute_uri(sample["root"], sample["uri"]),
            )
            self._held[sample["row"]] = item
            self._characters += len(text or "") + len(item.uri)
        return {row: self._held[row] for row in wanted}

    def _text(self, row: int, root: str, uri: str) -> str | None:
        if not self.are_texts:
            return None
        try:
            text = str(read_item(self._modality, root, uri))
        except ItemError as error:
            raise FungiError(
                "a text cannot be read again",
                where=shortened(uri),
                found=error.what,
                hint="put it back; or run fungi extract again, which takes note that it is gone",
            ) from error
        if self._most is None or len(text) <= self._most:
            return text
        self._cut.add(row)
        return text[: self._most] + CUT
